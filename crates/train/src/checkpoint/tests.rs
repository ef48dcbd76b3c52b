//! Checkpoints that are whole, damaged, foreign, or cut off by a full disk.
#![allow(clippy::unwrap_used)]

use super::*;

const ELEMENTS: usize = 70_001;

fn identity() -> Identity {
    let part = |name: &str| name.to_owned();
    Identity { config: part("c"), options: part("o"), data: part("d"), initial: part("i") }
}

fn weights(step: usize) -> Vec<f32> {
    (0..ELEMENTS).map(|index| (index * step) as f32 * 0.37 - 5.0).collect()
}

fn at(step: usize) -> At {
    At { step, samples: 10 * step as u64, course: Course::default() }
}

fn save(store: &Store, step: usize) -> Result<u64> {
    let buffers: [(&str, &[f32]); 2] = [("weights", &weights(step)), ("first_moment", &[step as f32])];
    store.save(&at(step), &identity(), &buffers)
}

fn load(store: &Store, run: &Identity) -> Result<Option<(Loaded, Vec<f32>, f32)>> {
    let (mut weights, mut moment) = (vec![0.0; ELEMENTS], [0.0]);
    let loaded = store.load(run, &mut [("weights", &mut weights), ("first_moment", &mut moment)])?;
    Ok(loaded.map(|loaded| (loaded, weights, moment[0])))
}

fn store(steps: &[usize], keep: usize) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("checkpoints"), keep).unwrap();
    for &step in steps {
        save(&store, step).unwrap();
    }
    (folder, store)
}

fn names(store: &Store) -> Vec<String> {
    let entries = fs::read_dir(&store.folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| file_name(&entry.unwrap().path())).collect();
    names.sort();
    names
}

#[test]
fn the_newest_comes_back_bit_for_bit_and_older_ones_go() {
    let (_folder, store) = store(&[3, 7, 12], 2);
    assert_eq!(names(&store), ["step-00000007", "step-00000012"]);
    let (loaded, read, moment) = load(&store, &identity()).unwrap().unwrap();
    assert_eq!((loaded.at.step, moment), (12, 12.0));
    assert_eq!(read_header(&store.path(12)).unwrap().at.samples, 120);
    assert!(read.iter().zip(weights(12)).all(|(read, saved)| read.to_bits() == saved.to_bits()));
    assert!(loaded.damaged.is_empty());
    store.forget_after(7).unwrap();
    assert_eq!(names(&store), ["step-00000007"]);
}

#[test]
fn nothing_there_is_no_error() {
    let (_folder, store) = store(&[], 2);
    assert!(load(&store, &identity()).unwrap().is_none());
}

#[test]
fn special_values_survive() {
    let (_folder, store) = store(&[], 1);
    let odd = [f32::NAN, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 2.0];
    store.save(&at(1), &identity(), &[("weights", &odd)]).unwrap();
    let mut read = [0.0; 4];
    store.load(&identity(), &mut [("weights", &mut read)]).unwrap().unwrap();
    assert_eq!(read.map(f32::to_bits), odd.map(f32::to_bits));
}

/// Ways to damage a checkpoint's folder.
type Damage = (&'static str, fn(&Path));

fn flip(path: PathBuf, at: usize) {
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

const DAMAGES: [Damage; 9] = [
    ("a bit of the weights", |folder| flip(folder.join("weights.f32"), 4 * 70_000)),
    ("the first bit of the weights", |folder| flip(folder.join("weights.f32"), 0)),
    ("a bit of a moment", |folder| flip(folder.join("first_moment.f32"), 2)),
    ("short weights", |folder| {
        let file = File::options().write(true).open(folder.join("weights.f32")).unwrap();
        file.set_len(100).unwrap();
    }),
    ("no weights", |folder| fs::remove_file(folder.join("weights.f32")).unwrap()),
    ("no header", |folder| fs::remove_file(folder.join(HEADER)).unwrap()),
    ("an empty header", |folder| fs::write(folder.join(HEADER), "").unwrap()),
    ("another step in the header", |folder| {
        let text = fs::read_to_string(folder.join(HEADER)).unwrap();
        fs::write(folder.join(HEADER), text.replace("\"step\": 9", "\"step\": 8")).unwrap();
    }),
    ("an empty folder", |folder| {
        fs::remove_dir_all(folder).unwrap();
        fs::create_dir(folder).unwrap();
    }),
];

#[test]
fn a_damaged_newest_falls_back_and_says_so() {
    for (name, damage) in DAMAGES {
        let (_folder, store) = store(&[5, 9], 3);
        damage(&store.path(9));
        let (loaded, read, _) = load(&store, &identity()).unwrap().unwrap();
        assert_eq!((loaded.at.step, read == weights(5)), (5, true), "{name}");
        assert_eq!(loaded.damaged.len(), 1, "{name}");
        assert!(loaded.damaged[0].contains("step-00000009 is damaged: "), "{name}: {:?}", loaded.damaged);
    }
}

#[test]
fn when_all_are_damaged_nothing_starts_over() {
    for (name, damage) in DAMAGES {
        let (_folder, store) = store(&[9], 3);
        damage(&store.path(9));
        let error = load(&store, &identity()).unwrap_err();
        assert!(matches!(error, Error::AllDamaged { count: 1, .. }), "{name}: {error}");
        assert_eq!(names(&store), ["step-00000009"], "{name}");
    }
}

#[test]
fn another_run_is_refused_by_what_differs() {
    let (_folder, store) = store(&[5], 3);
    type Change = fn(&mut Identity);
    let differ: [(&str, Change); 4] = [
        ("the model's configuration", |run| run.config.push('x')),
        ("the training options", |run| run.options.push('x')),
        ("the training data", |run| run.data.push('x')),
        ("the initial weights", |run| run.initial.push('x')),
    ];
    for (name, change) in differ {
        let mut run = identity();
        change(&mut run);
        let error = load(&store, &run).unwrap_err().to_string();
        assert!(error.contains(&format!("differs in {name}")), "{error}");
    }
}

/// A disk with room for 100 kB in each file.
struct SmallDisk {
    room: usize,
}

impl Write for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SyncWrite for SmallDisk {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_leaves_the_previous_checkpoint_and_nothing_else() {
    let (_folder, store) = store(&[5], 1);
    let full: Create = |_| Ok(Box::new(SmallDisk { room: 100_000 }));
    let unsynced: Create = |_| Err(io::ErrorKind::StorageFull.into());
    for create in [full, unsynced] {
        let buffers: [(&str, &[f32]); 1] = [("weights", &weights(6))];
        let error = store.save_with(create, &at(6), &identity(), &buffers).unwrap_err().to_string();
        assert!(error.contains("step-00000006") && error.contains("step-00000005 is untouched"), "{error}");
        assert_eq!(names(&store), ["step-00000005"]);
    }
    assert_eq!(load(&store, &identity()).unwrap().unwrap().1, weights(5));
}

#[test]
fn what_a_kill_left_half_written_is_removed_and_never_read() {
    let (_folder, store) = store(&[5], 2);
    for name in [".partial-step-00000006", ".partial-old-step-00000004"] {
        fs::create_dir(store.folder.join(name)).unwrap();
        fs::write(store.folder.join(name).join("weights.f32"), [0; 99]).unwrap();
    }
    let store = Store::open(&store.folder, 2).unwrap();
    assert_eq!(names(&store), ["step-00000005"]);
    assert_eq!(load(&store, &identity()).unwrap().unwrap().0.at.step, 5);
}

#[test]
fn a_checkpoint_of_the_same_step_is_replaced() {
    let (_folder, store) = store(&[5, 5], 2);
    assert_eq!(names(&store), ["step-00000005"]);
    assert_eq!(load(&store, &identity()).unwrap().unwrap().1, weights(5));
}
