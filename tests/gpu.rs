//! `taoye plan --here` on machines with graphics processors: NVIDIA's tool is a script, and its driver and cuBLAS are a
//! library of this folder (`gpu/driver.c`) that has the same functions, refuses what the real ones refuse, and takes known
//! times, so that everything up to the library's border runs.
//!
//! It must not know a formula.

use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::harness::{Folder, succeed, taoye};

const EIGHT: &str = "case \"$*\" in *name,memory.total,power.limit,clocks.max.sm*nounits*) ;; *) exit 9;; esac\n\
                     for i in 1 2 3 4 5 6 7 8; do echo 'NVIDIA A100-SXM4-80GB, 81920, 400.00, 1410'; done\n\
                     echo 'Tesla T4, 15360, [N/A], 1590'\n";

/// A folder whose `nvidia-smi` is this script, first in the path.
fn with_tool(folder: &Folder, script: &str) -> OsString {
    let tool = folder.write("bin/nvidia-smi", format!("#!/bin/sh\n{script}"));
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.join("bin")).chain(std::env::split_paths(&old));
    std::env::join_paths(folders).unwrap()
}

/// A folder of libraries that hides the machine's own: the driver compiled under its name, and, where asked for, cuBLAS as
/// the same file under the other.
fn with_driver(folder: &Folder, has_driver: bool, has_blas: bool) {
    let names = |library: &str| {
        let versions = ["", ".13", ".12", ".11", ".10", ".9", ".1"];
        versions.map(|version| folder.join(&format!("lib/lib{library}.so{version}")))
    };
    // A file that is no library ends the search for its name.
    for path in names("cuda").into_iter().chain(names("cublas")) {
        let _ = std::fs::remove_file(&path);
        folder.write(&path.to_string_lossy(), "");
    }
    let [library, blas] = ["cuda", "cublas"].map(|library| names(library)[0].clone());
    if has_driver {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/gpu/driver.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        assert!(command.status().unwrap().success());
    }
    if has_blas {
        std::fs::remove_file(&blas).unwrap();
        symlink(&library, &blas).unwrap();
    }
}

fn here(folder: &Folder, script: &str, failing: &str) -> Command {
    let mut command = taoye(["plan", "--here", "--hours", "80"]);
    command.env("PATH", with_tool(folder, script)).env("LD_LIBRARY_PATH", folder.join("lib"));
    command.env("FAILING", failing);
    command
}

fn found(command: &mut Command) -> Vec<Value> {
    let finished = succeed(command.arg("--json"));
    assert!(!finished.err.contains("not freed"), "{}", finished.all());
    let json: Value = serde_json::from_str(finished.out.trim()).unwrap();
    json["gpu"]["found"].as_array().unwrap().clone()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// Without a driver the tool's word and the catalogue's figures are what there is, and that is said; with one, one of each
/// kind is measured, in its own type of numbers, and plans are made with what was measured.
#[test]
fn one_of_each_kind_is_measured() {
    let folder = Folder::new();
    with_driver(&folder, false, false);
    let text = succeed(&mut here(&folder, EIGHT, "")).out;
    for part in [
        "8 × NVIDIA A100-SXM4-80GB",
        "found, not measured (libcuda is not found",
        "a100-sxm-80g, 312 TFLOP/s",
        "--chips 8",
        "1 × Tesla T4",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let told = found(&mut here(&folder, EIGHT, ""));
    assert_eq!((told.len(), number(&told[0], "count")), (2, 8.0));
    assert_eq!((&told[0]["measured"], &told[0]["measured_tflops"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(told[0]["catalogued"], "a100-sxm-80g");
    let best = &told[0]["training"]["best"];
    assert!(number(best, "tokens") >= 20.0 * number(best, "parameters"), "{best}");
    assert!((0.1..1.0).contains(&number(best, "mfu")), "{best}");
    assert_eq!((&told[1]["catalogued"], &told[1]["training"]), (&Value::Null, &Value::Null));

    with_driver(&folder, true, true);
    let measured = found(&mut here(&folder, EIGHT, ""));
    for (one, of, precision) in [(0, "NVIDIA A100-SXM4-80GB", "bf16"), (1, "Tesla T4", "fp16")] {
        let one = &measured[one];
        assert_eq!((&one["name"], &one["measured"]), (&Value::from(of), &Value::Bool(true)));
        assert_eq!(one["trouble"], Value::Null, "{one}");
        // The library takes known times, to which this machine may add, but not take away.
        let (copies, products) = (number(one, "measured_copy_gb_per_s"), number(one, "measured_tflops"));
        assert!((1.0..=66.1).contains(&copies), "{one}");
        assert!((1.5..=17.01).contains(&products) && one["measured_type"] == precision, "{one}");
    }
    // The driver shows two of the eight. A twentieth of an A100 trains less than an A100; a T4, which the catalogue lacks, can be planned with now.
    assert_eq!((&measured[0]["lowered"], &told[0]["lowered"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!((number(&measured[0], "planned"), number(&measured[1], "planned")), (2.0, 1.0));
    let best = |found: &Value| number(&found["training"]["best"], "parameters");
    assert!(best(&measured[0]) < best(&told[0]));
    assert!(best(&measured[1]) > 0.0);
}

/// What fails is named with the driver's words, and the rest is told all the same.
#[test]
fn what_fails_is_named() {
    let folder = Folder::new();
    let finished = succeed(&mut here(&folder, "echo 'Driver/library version mismatch'\nexit 18\n", ""));
    for part in ["no GPU known", "version mismatch", "a training step"] {
        assert!(finished.out.contains(part), "{part}: {}", finished.all());
    }
    with_driver(&folder, true, false);
    let finished = succeed(&mut here(&folder, EIGHT, ""));
    for part in ["measured on one: copies", "% of the data sheet's), products not (libcublas is not found"] {
        assert!(finished.out.contains(part), "{part}: {}", finished.all());
    }
    assert!(!finished.all().contains("not freed"), "{}", finished.all());
    with_driver(&folder, true, true);
    for (failing, parts) in [
        ("cuInit", &["found, not measured (starting the driver: CUDA_ERROR_UNKNOWN"][..]),
        ("cuMemAlloc", &["found, not measured (allocating memory: CUDA_ERROR_OUT_OF_MEMORY, out of memory)"]),
        ("cublasGemmEx", &["copies", "products not (multiplying: ", "EXECUTION_FAILED"]),
    ] {
        let text = succeed(&mut here(&folder, EIGHT, failing)).out;
        for part in parts.iter().copied().chain(["a100-sxm-80g, 312 TFLOP/s"]) {
            assert!(text.contains(part), "{failing}: {part}: {text}");
        }
    }
    let other = EIGHT.replace("Tesla T4", "NVIDIA L4");
    let text = succeed(here(&folder, &other, "").env("BUSY", "1")).out;
    for part in [
        "found, not measured (of its 3221225472 bytes of memory 1610612736 are free",
        "the driver shows this program no processor named NVIDIA L4, but: Tesla T4, NVIDIA A100",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let hidden = found(here(&folder, EIGHT, "").env("HIDDEN", "1"));
    let trouble = "the driver shows this program no processor named NVIDIA A100-SXM4-80GB, but: none";
    assert_eq!((&hidden[0]["trouble"], &hidden[0]["training"]), (&Value::from(trouble), &Value::Null));
}
