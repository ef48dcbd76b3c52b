//! Pulls from a hub on the loopback interface that misbehaves as told.
#![allow(clippy::unwrap_used)]

mod fake;

use base::progress::Output;
use fake::{Answer, Fake, Seen, git_sha1, sha256};
use hub::{Error, Hub, Kind, ModelName, Policy, Request, Result, find_in, pull, pull_offline};
use std::path::Path;
use std::time::Duration;

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of a fake repository.
#[derive(Clone)]
struct Stored {
    path: &'static str,
    content: Vec<u8>,
    is_large: bool,
}

fn small(path: &'static str, content: &str) -> Stored {
    Stored { path, content: content.as_bytes().to_vec(), is_large: false }
}

fn large(path: &'static str, length: usize) -> Stored {
    let content = (0..length).map(|i| (i * 31 % 251) as u8).collect();
    Stored { path, content, is_large: true }
}

fn model() -> Vec<Stored> {
    vec![
        small("README.md", "not fetched"),
        small("config.json", "{\"a\": 1}"),
        small("tokenizer.json", "{}"),
        large("model.safetensors", 300_000),
    ]
}

/// What `GET /api/models/ORG/NAME/revision/REVISION?blobs=true` answers.
fn listing(files: &[Stored]) -> String {
    let siblings: Vec<String> = files
        .iter()
        .map(|file| {
            let (path, size) = (file.path, file.content.len());
            let lfs = match file.is_large {
                true => format!(", \"lfs\": {{\"sha256\": \"{}\", \"size\": {size}}}", sha256(&file.content)),
                false => String::new(),
            };
            format!(
                "{{\"rfilename\": \"{path}\", \"size\": {size}, \"blobId\": \"{}\"{lfs}}}",
                git_sha1(&file.content)
            )
        })
        .collect();
    format!("{{\"id\": \"org/name\", \"sha\": \"{SHA}\", \"siblings\": [{}]}}", siblings.join(", "))
}

/// A well-behaved hub's answer; files are asked for as `/org/name/resolve/SHA/PATH`.
fn honest(files: &[Stored], seen: &Seen) -> Answer {
    if seen.path.starts_with("/api/models/org/name/revision/") {
        return Answer::ok(listing(files).into_bytes());
    }
    let path = seen.path.strip_prefix(&format!("/org/name/resolve/{SHA}/"));
    match path.and_then(|path| files.iter().find(|file| file.path == path)) {
        Some(file) => Answer::file(&file.content, seen),
        None => Answer::status(404),
    }
}

struct Scene {
    folder: tempfile::TempDir,
    hub: Hub,
}

impl Scene {
    fn new(fake: &Fake) -> Scene {
        let policy =
            Policy { attempts_max: 3, pause: Duration::from_millis(5), silence_max: Duration::from_secs(5) };
        let hub = Hub {
            kind: Kind::HuggingFace,
            endpoint: fake.address(),
            token: Some("secret".to_owned()),
            policy,
        };
        Scene { folder: tempfile::tempdir().unwrap(), hub }
    }

    fn models(&self) -> &Path {
        self.folder.path()
    }

    fn pull(&self, name: &str) -> Result<hub::Pulled> {
        let name: ModelName = name.parse().unwrap();
        let mut request = Request::new(&name, self.models().to_owned());
        request.output = Output::Silent;
        pull(&self.hub, &request)
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.models().join("org/name").join(path)).ok()
    }

    /// The files that are still on their way.
    fn partials(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.models().join("org/name/.pull")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "part")).collect()
    }
}

/// Ranges and tokens with which a path was asked for.
fn asked(fake: &Fake, ending: &str) -> Vec<(Option<u64>, bool)> {
    let seen = fake.seen().into_iter().filter(|seen| seen.path.ends_with(ending));
    seen.map(|seen| (seen.first, seen.token.is_some())).collect()
}

#[test]
fn a_model_comes_whole_and_only_once_and_the_token_stays_at_its_hub() {
    let files = model();
    let cdn = Fake::start({
        let files = files.clone();
        move |seen, _| Answer::file(&files[3].content, seen)
    });
    let at_cdn = format!("{}/blob", cdn.address());
    let hub = Fake::start({
        let files = files.clone();
        move |seen, _| match seen.path.ends_with("model.safetensors") {
            true => Answer::status(302).header("Location", &at_cdn),
            false => honest(&files, seen),
        }
    });
    let scene = Scene::new(&hub);
    let pulled = scene.pull("org/name").unwrap();
    assert_eq!(pulled.model, scene.models().join("org/name"));
    assert_eq!(pulled.revision.as_deref(), Some(SHA));
    assert!(pulled.files.iter().all(|file| file.is_new) && pulled.files.len() == 3);
    for file in &files[1..] {
        assert_eq!(scene.read(file.path).as_ref(), Some(&file.content));
    }
    assert_eq!(scene.read("README.md"), None);
    assert!(hub.seen().iter().all(|seen| seen.token.as_deref() == Some("Bearer secret")));
    assert_eq!(cdn.seen().iter().map(|seen| &seen.token).collect::<Vec<_>>(), [&None]);

    let requests = hub.seen().len();
    let again = scene.pull("org/name").unwrap();
    assert!(again.files.iter().all(|file| !file.is_new));
    assert_eq!(hub.seen().len(), requests + 1, "only the listing is asked for again");

    // A file changed here is noticed by its size, and one that nothing is known of by its content.
    std::fs::write(scene.models().join("org/name/config.json"), "{\"a\": 10}").unwrap();
    std::fs::remove_file(scene.models().join("org/name/.pull/files.json")).unwrap();
    let repaired = scene.pull("org/name").unwrap();
    let new: Vec<&str> =
        repaired.files.iter().filter(|file| file.is_new).map(|file| file.path.as_str()).collect();
    assert_eq!(new, ["config.json"]);
}

#[test]
fn what_is_cut_off_is_resumed_in_the_same_pull_and_in_a_later_one() {
    let files = model();
    let fake = Fake::start({
        let files = files.clone();
        move |seen, earlier| {
            let weights = seen.path.ends_with("model.safetensors");
            let answer = honest(&files, seen);
            if weights && earlier < 4 { answer.cut_after(10_000) } else { answer }
        }
    });
    let mut scene = Scene::new(&fake);
    scene.hub.policy.attempts_max = 1;
    let error = scene.pull("org/name").unwrap_err();
    assert!(matches!(error, Error::Network { attempts: 1, .. }), "{error}");
    assert_eq!(scene.read("model.safetensors"), None, "nothing half-written has the file's name");
    let found = find_in(scene.models(), &"org/name".parse().unwrap());
    assert!(matches!(found, Err(Error::Incomplete { .. })), "{found:?}");
    let kept = std::fs::metadata(&scene.partials()[0]).unwrap().len();

    scene.hub.policy.attempts_max = 9;
    scene.pull("org/name").unwrap();
    assert_eq!(scene.read("model.safetensors"), Some(files[3].content.clone()));
    let firsts: Vec<Option<u64>> =
        asked(&fake, "model.safetensors").into_iter().map(|(first, _)| first).collect();
    assert_eq!((firsts[0], firsts[1]), (None, Some(kept)));
    assert!(firsts.len() == 5 && firsts.windows(2).all(|pair| pair[0] < pair[1]), "{firsts:?}");
    assert!(scene.partials().is_empty());
}

#[test]
fn a_hub_that_cannot_continue_is_asked_from_the_start() {
    for status in [200, 416, 206] {
        let files = model();
        let fake = Fake::start({
            let files = files.clone();
            move |seen, earlier| {
                let whole = Seen { first: None, ..seen.clone() };
                let answer = honest(&files, &whole);
                match (seen.path.ends_with("model.safetensors"), earlier) {
                    (true, 0) => answer.cut_after(5_000),
                    // 206 of another range than was asked for.
                    (true, 1) if status == 206 => {
                        answer.with_status(206).header("Content-Range", "bytes 0-9/10")
                    }
                    (true, 1) if status == 416 => Answer::status(416),
                    _ => answer,
                }
            }
        });
        let scene = Scene::new(&fake);
        scene.pull("org/name").unwrap();
        assert_eq!(scene.read("model.safetensors"), Some(files[3].content.clone()), "{status}");
    }
}

#[test]
fn damage_is_noticed_fetched_again_once_and_then_refused() {
    for (path, damaged_times, works) in
        [("model.safetensors", 1, true), ("model.safetensors", 9, false), ("config.json", 9, false)]
    {
        let files = model();
        let fake = Fake::start({
            let files = files.clone();
            move |seen, earlier| {
                let mut files = files.clone();
                if seen.path.ends_with(path) && earlier < damaged_times {
                    files.iter_mut().for_each(|file| file.content[1] ^= 1);
                }
                honest(&files, seen)
            }
        });
        let scene = Scene::new(&fake);
        match scene.pull("org/name") {
            Ok(_) => assert!(works, "{path}"),
            Err(error) => {
                assert!(!works && matches!(error, Error::Damaged { .. }), "{path}: {error}");
                assert_eq!(scene.read(path), None);
                assert!(scene.partials().is_empty(), "damaged bytes are not resumed");
            }
        }
    }
}

/// One answer to everything, and what the error must say.
fn check_refusal(answer: impl Fn(&Seen, usize) -> Answer + Send + 'static, requests: usize, expected: &str) {
    let fake = Fake::start(answer);
    let scene = Scene::new(&fake);
    let error = scene.pull("org/name").unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert_eq!(fake.seen().len(), requests, "{error}");
}

#[test]
fn statuses_say_what_to_do() {
    check_refusal(|_, _| Answer::status(404), 1, "answers 404: there is no model org/name at revision main");
    check_refusal(|_, _| Answer::status(401), 1, "check its name and revision");
    check_refusal(|_, _| Answer::status(403), 1, "accept its terms on the hub, or set HF_TOKEN");
    check_refusal(|_, _| Answer::status(429), 3, "the hub answers 429; gave up after 3 attempts");
    check_refusal(|_, _| Answer::status(500), 3, "the hub answers 500; gave up after 3 attempts");
    check_refusal(|_, _| Answer::status(418), 1, "the hub answers 418");
    check_refusal(|_, _| Answer::status(302), 1, "a redirect that leads nowhere");
    check_refusal(|_, _| Answer::status(302).header("Location", "/again"), 11, "too many redirects");
    check_refusal(|_, _| Answer::ok(b"<html>".to_vec()), 1, "this is no listing of a model's files");
    check_refusal(|_, _| Answer::ok(Vec::new()).cut_after(0), 3, "gave up after 3 attempts");
}

#[test]
fn a_busy_hub_is_asked_again_after_the_time_that_it_names() {
    let files = model();
    let fake = Fake::start(move |seen, earlier| match earlier {
        0 if seen.path.starts_with("/api/") => Answer::status(429).header("Retry-After", "1"),
        0 | 1 => Answer::status(503),
        _ => honest(&files, seen),
    });
    let scene = Scene::new(&fake);
    let started = std::time::Instant::now();
    scene.pull("org/name").unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for path in [
        "../outside.safetensors",
        "/etc/model.safetensors",
        "a/../../x.safetensors",
        "C:x.safetensors",
        ".pull/x.safetensors",
    ] {
        let mut files = model();
        files.push(large(path, 10));
        let fake = Fake::start(move |seen, _| honest(&files, seen));
        let scene = Scene::new(&fake);
        let error = scene.pull("org/name").unwrap_err();
        assert!(matches!(error, Error::UnsafePath { .. }), "{path}: {error}");
        assert_eq!(std::fs::read_dir(scene.models()).unwrap().count(), 0, "{path}");
    }
}

#[test]
fn more_bytes_than_listed_are_refused() {
    let files = model();
    let fake = Fake::start(move |seen, _| {
        let mut sent = files.clone();
        if seen.path.contains("resolve") {
            sent[3].content.extend_from_slice(&[0; 1000]);
        }
        honest(&sent, seen)
    });
    let error = Scene::new(&fake).pull("org/name").unwrap_err().to_string();
    assert!(error.contains("sends more than the 300000 bytes"), "{error}");
}

#[test]
fn gguf_by_tag_and_split_models() {
    let files = vec![
        large("m-Q4_K_M.gguf", 5000),
        large("m-Q8_0-00001-of-00002.gguf", 4000),
        large("m-Q8_0-00002-of-00002.gguf", 3000),
        small("config.json", "{}"),
    ];
    let fake = Fake::start(move |seen, _| honest(&files, seen));
    let scene = Scene::new(&fake);
    let folder = scene.models().join("org/name");
    assert_eq!(scene.pull("org/name:q8_0").unwrap().model, folder.join("m-Q8_0-00001-of-00002.gguf"));
    assert_eq!(
        find_in(scene.models(), &"org/name".parse().unwrap()).unwrap().unwrap(),
        folder.join("m-Q8_0-00001-of-00002.gguf")
    );
    assert_eq!(scene.pull("org/name").unwrap().model, folder.join("m-Q4_K_M.gguf"));
    for (name, file) in [
        ("org/name:Q4_K_M", "m-Q4_K_M.gguf"),
        ("org/name:m-Q8_0-00002-of-00002.gguf", "m-Q8_0-00001-of-00002.gguf"),
    ] {
        assert_eq!(
            find_in(scene.models(), &name.parse().unwrap()).unwrap(),
            Some(folder.join(file)),
            "{name}"
        );
    }
    // The name alone means the same here as it does to a pull.
    assert_eq!(
        find_in(scene.models(), &"org/name".parse().unwrap()).unwrap(),
        Some(folder.join("m-Q4_K_M.gguf"))
    );
    assert_eq!(find_in(scene.models(), &"org/name:Q5_0".parse().unwrap()).unwrap(), None);
    assert_eq!(find_in(scene.models(), &"org/other".parse().unwrap()).unwrap(), None);
    std::fs::remove_file(folder.join("m-Q8_0-00002-of-00002.gguf")).unwrap();
    let found = find_in(scene.models(), &"org/name:Q8_0".parse().unwrap());
    assert!(matches!(found, Err(Error::Incomplete { .. })), "{found:?}");
}

#[test]
fn a_listing_without_sizes_and_checksums_takes_them_from_the_answers() {
    let files = model();
    let fake = Fake::start(move |seen, _| {
        if seen.path.starts_with("/api/") {
            let names: Vec<String> =
                files.iter().map(|file| format!("{{\"rfilename\": \"{}\"}}", file.path)).collect();
            return Answer::ok(format!("{{\"siblings\": [{}]}}", names.join(",")).into_bytes());
        }
        let path = seen.path.strip_prefix("/org/name/resolve/main/").unwrap();
        let file = files.iter().find(|file| file.path == path).unwrap();
        // What arrives is not what the tag says.
        let tag = if file.is_large { sha256(b"other") } else { git_sha1(&file.content) };
        Answer::file(&file.content, seen).header("X-Linked-Etag", &format!("\"{tag}\""))
    });
    let scene = Scene::new(&fake);
    let error = scene.pull("org/name").unwrap_err().to_string();
    assert!(error.starts_with("model.safetensors arrived damaged twice"), "{error}");
    assert!(scene.read("config.json").is_some() && scene.read("tokenizer.json").is_some());
}

#[test]
fn modelscope_speaks_its_own_protocol() {
    let content = large("model.safetensors", 2000).content;
    let fake = Fake::start({
        let content = content.clone();
        move |seen, _| {
            let sum = sha256(&content);
            match seen.path.as_str() {
                "/api/v1/models/org/name/repo/files?Revision=master&Recursive=true" => Answer::ok(
                    format!(
                        "{{\"Code\": 200, \"Data\": {{\"Files\": [{{\"Path\": \"a\", \"Type\": \"tree\"}}, \
                         {{\"Path\": \"model.safetensors\", \"Size\": 2000, \"Sha256\": \"{sum}\", \"Type\": \"blob\"}}]}}}}"
                    )
                    .into_bytes(),
                ),
                "/api/v1/models/org/name/repo?Revision=master&FilePath=model.safetensors" => Answer::file(&content, seen),
                _ => Answer::status(404),
            }
        }
    });
    let mut scene = Scene::new(&fake);
    scene.hub.kind = Kind::ModelScope;
    scene.pull("org/name").unwrap();
    assert_eq!(scene.read("model.safetensors"), Some(content));
}

#[test]
fn offline_uses_what_is_here_or_says_what_is_missing() {
    let files = model();
    let fake = Fake::start(move |seen, _| honest(&files, seen));
    let scene = Scene::new(&fake);
    let check = |name: &str, revision, include: &[&str], expected: Result<(), &str>| {
        let name: ModelName = name.parse().unwrap();
        let include: Vec<String> = include.iter().map(|&pattern| pattern.to_owned()).collect();
        let mut request = Request::new(&name, scene.models().to_owned());
        (request.revision, request.include) = (revision, &include);
        match (pull_offline(&request), expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    };
    check("org/name", None, &[], Err("offline, and org/name is not in"));
    scene.pull("org/name").unwrap();
    let requests = fake.seen().len();
    check("org/name", None, &[], Ok(()));
    check("org/name", Some(SHA), &["*.json"], Ok(()));
    check("org/name", Some("other"), &[], Err("org/name at revision other is not in"));
    check("org/name", None, &["*.bin"], Err("org/name with a file like *.bin is not in"));
    check("org/name:Q4_0", None, &[], Err("org/name:Q4_0 is not in"));
    std::fs::write(scene.models().join("org/name/config.json"), "{").unwrap();
    check("org/name", None, &[], Err("the whole of org/name/config.json is not in"));
    assert_eq!(fake.seen().len(), requests);
}

#[test]
fn one_pull_at_a_time() {
    let files = model();
    let fake = Fake::start(move |seen, _| honest(&files, seen));
    let scene = Scene::new(&fake);
    scene.pull("org/name").unwrap();
    let lock = std::fs::File::open(scene.models().join("org/name/.pull/lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(scene.pull("org/name"), Err(Error::Busy { .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let files = model();
    let fake = Fake::start(move |seen, earlier| {
        let answer = honest(&files, seen);
        if seen.path.ends_with("model.safetensors") && earlier == 0 {
            answer.cut_after(5_000)
        } else {
            answer
        }
    });
    let mut scene = Scene::new(&fake);
    scene.hub.policy.attempts_max = 1;
    scene.pull("org/name").unwrap_err();
    let partial = scene.partials().remove(0);
    std::fs::remove_file(&partial).unwrap();
    std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    let error = scene.pull("org/name").unwrap_err();
    assert!(matches!(error, Error::File(base::Error::DiskFull { .. })), "{error}");
}
