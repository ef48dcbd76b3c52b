//! A folder for a test, texts and a recipe small enough for seconds, and the binary's ways to run and to end.
//!
//! It must not know what any test expects.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longest that any single command of a test may take.
const COMMAND_SECONDS_MAX: u64 = 300;

/// A folder that is removed with its owner.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::Builder::new().prefix("taoye-test-").tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file, its folders too, and returns where it is.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes small texts in both languages into `texts/`, and returns that folder.
    pub fn write_texts(&self) -> PathBuf {
        for number in 0..40 {
            self.write(&format!("texts/{number}.md"), text(number));
        }
        self.join("texts")
    }
}

/// A few hundred words that differ from number to number.
fn text(number: usize) -> String {
    let subjects = ["The kiln", "A potter", "The ore", "One smelter", "The clay"];
    let verbs = ["warms", "shapes", "cools", "tests", "keeps"];
    let objects = ["a bowl of glaze", "the iron", "a long brick wall", "two small furnaces", "its ashes"];
    let chinese = ["陶工把泥土做成碗", "炉火烧了一整夜", "矿石在水边堆着", "铁水倒进模子里", "灰烬留到春天"];
    let mut text = format!("# Notes, part {number}\n\n");
    for sentence in 0..30 {
        let pick = |list: &[&'static str; 5], step: usize| list[(number * step + sentence * (step + 2)) % 5];
        let _ = writeln!(
            text,
            "{} {} {} on day {}. {}，第{}次。",
            pick(&subjects, 1),
            pick(&verbs, 3),
            pick(&objects, 2),
            number * 31 + sentence,
            pick(&chinese, 4),
            sentence + 1
        );
    }
    text
}

/// A whole pipeline with every size decided, to run in seconds.
pub const RECIPE: &str = r#"
name = "small"
seed = 7

[corpus]
inputs = []
max_megabytes = 4
held_out_share = 0.2
max_group_share = 1.0

[tokenizer]
vocab_size = 512
sample_megabytes = 1

[model]
family = "qwen3"
layers = 2
hidden_size = 32
heads = 2
kv_heads = 1
intermediate_size = 64
max_positions = 256
rope_theta = 10000.0
tie_embeddings = true

[pretrain]
steps = 24
batch_sequences = 4
context = 128
checkpoint_every = 5
eval_every = 10

[finetune]
items = 0

[finetune.train]
steps = 16
batch_sequences = 4
context = 128
checkpoint_every = 4

[finetune.train.optimiser]
kind = "muon"

[evaluate]
held_out_kilobytes = 8
items_per_family = 2
"#;

/// The binary with its arguments.
pub fn taoye<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taoye"));
    command.args(arguments).env_remove("TAOYE_ISA").stdin(Stdio::null());
    command
}

/// The command that runs [`RECIPE`], saved as `recipe.toml` in `folder`, on the texts of the same folder.
pub fn run_recipe(folder: &Folder, threads: usize) -> Command {
    folder.write("recipe.toml", RECIPE);
    let mut command = taoye(["run", "recipe.toml", "--input", "texts", "--threads"]);
    command.arg(threads.to_string()).current_dir(folder.path());
    command
}

/// What a finished command left.
pub struct Finished {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Finished {
    pub fn of(output: Output) -> Finished {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Finished { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Both outputs, for messages.
    pub fn all(&self) -> String {
        format!("status {:?}\n--- out\n{}\n--- err\n{}", self.status, self.out, self.err)
    }
}

/// Runs to the end.
pub fn run(command: &mut Command) -> Finished {
    let mut child = start(command);
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(COMMAND_SECONDS_MAX) {
            child.kill().unwrap();
            panic!("{command:?} still ran after {COMMAND_SECONDS_MAX} s");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // The outputs here are far below a pipe's buffer, so waiting first cannot block the child.
    Finished::of(child.wait_with_output().unwrap())
}

/// Runs to the end and expects success.
pub fn succeed(command: &mut Command) -> Finished {
    let finished = run(command);
    assert_eq!(finished.status, Some(0), "{command:?}\n{}", finished.all());
    finished
}

/// Starts with both outputs kept.
pub fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a signal as `kill` does; `KILL`, `INT` and `TERM` are used.
pub fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    // It may have ended by itself in the meantime.
    let _ = Command::new("kill").args(["-s", name, &id]).stderr(Stdio::null()).status().unwrap();
}

/// A finished run of [`RECIPE`] that several tests read; made once.
pub fn finished_run() -> &'static Path {
    static RUN: OnceLock<(Folder, PathBuf)> = OnceLock::new();
    let (_, run_folder) = RUN.get_or_init(|| {
        let folder = Folder::new();
        folder.write_texts();
        succeed(&mut run_recipe(&folder, 2));
        let run_folder = folder.join("runs/small");
        (folder, run_folder)
    });
    run_folder
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
