//! What is written is read back; what is damaged is refused in words, without a panic or a giant allocation.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::seed::Rng;
use std::path::{Path, PathBuf};

/// A small file with a value of each type and two tensors of 40 and 33 bytes.
fn example(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama");
    writer.set("u8", 200u8);
    writer.set("i8", -3i8);
    writer.set("u16", 60_000u16);
    writer.set("i16", -300i16);
    writer.set("u32", u32::MAX);
    writer.set("i32", i32::MIN);
    writer.set("f32", 1.5f32);
    writer.set("bool", true);
    writer.set("u64", u64::MAX);
    writer.set("i64", i64::MIN);
    writer.set("f64", 0.1f64);
    writer.set_strings("tokens", &["a", "陶冶", ""]);
    writer.set_array("scores", &[0.5f32, -1.0]);
    writer.set_array("flags", &[true, false, true]);
    writer.tensor("first", &[5, 2], 0, 40);
    writer.tensor("second", &[33], 24, 33);
    let mut stream = writer.begin(&path).unwrap();
    stream.append(&[1; 30]).unwrap();
    stream.append(&[2; 10]).unwrap();
    stream.append(&[3; 33]).unwrap();
    stream.finish().unwrap();
    path
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::open(&example(folder.path())).unwrap();
    assert_eq!(file.version(), 3);
    assert_eq!(file.require::<&str>("general.architecture").unwrap(), "llama");
    let scalars = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-3)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-300)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("f32", Value::F32(1.5)),
        ("bool", Value::Bool(true)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(0.1)),
    ];
    for (key, value) in scalars {
        assert_eq!(file.get(key), Some(value), "{key}");
    }
    assert_eq!(file.require::<Vec<&str>>("tokens").unwrap(), ["a", "陶冶", ""]);
    assert_eq!(file.require::<Vec<f32>>("scores").unwrap(), [0.5, -1.0]);
    assert_eq!(file.require::<Vec<bool>>("flags").unwrap(), [true, false, true]);
    assert_eq!(file.keys().count(), 15);
    let [first, second] = file.tensors() else { panic!() };
    assert_eq!((first.dimensions.as_slice(), first.type_number), ([5, 2].as_slice(), 0));
    assert_eq!(file.bytes(first)[..40], [[1; 30].as_slice(), &[2; 10]].concat());
    assert_eq!(file.bytes(file.tensor("second").unwrap())[..33], [3; 33]);
    assert_eq!(second.dimensions, [33]);
}

#[test]
fn numbers_are_read_at_any_width_and_other_types_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::open(&example(folder.path())).unwrap();
    assert_eq!(file.require::<u32>("u8").unwrap(), 200);
    assert_eq!(file.require::<i64>("i16").unwrap(), -300);
    assert_eq!(file.find::<u32>("none").unwrap(), None);
    assert_eq!(file.require::<f32>("f64").unwrap(), 0.1);
    let wrong = [
        (file.require::<u32>("none").map(drop), "`none` is missing"),
        (file.require::<u32>("i8").map(drop), "`i8` is i8 -3; a whole number from 0 to 4294967295 is needed"),
        (file.require::<u32>("u64").map(drop), "`u64` is u64 18446744073709551615"),
        (file.require::<bool>("u8").map(drop), "true or false is needed"),
        (file.require::<&str>("tokens").map(drop), "`tokens` is array of 3 string; a string is needed"),
        (file.require::<Vec<u32>>("scores").map(drop), "an array, each element a whole number"),
    ];
    for (result, expected) in wrong {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("model.gguf"), "{message}");
    }
}

#[test]
fn a_value_is_copied_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::open(&example(folder.path())).unwrap();
    let mut writer = Writer::new();
    for key in file.keys() {
        writer.set(key, file.get(key).unwrap());
    }
    writer.set("u8", "replaced");
    let path = folder.path().join("copy.gguf");
    writer.begin(&path).unwrap().finish().unwrap();
    let copy = File::open(&path).unwrap();
    for key in file.keys() {
        let expected = if key == "u8" { Some(Value::String("replaced")) } else { file.get(key) };
        assert_eq!(copy.get(key), expected, "{key}");
    }
    assert!(copy.tensors().is_empty());
}

#[test]
fn a_stream_that_is_not_as_announced_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let begin = || {
        let mut writer = Writer::new();
        writer.tensor("only", &[10], 24, 10);
        writer.begin(&path).unwrap()
    };
    let mut stream = begin();
    assert!(stream.append(&[0; 11]).unwrap_err().to_string().contains("`only` was announced with 10 bytes"));
    stream.append(&[0; 9]).unwrap();
    assert!(stream.finish().unwrap_err().to_string().contains("and got 9"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A file by hand: pairs and tensors as bytes, then data.
fn by_hand(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data_bytes: usize) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    bytes.extend(pairs.concat());
    bytes.extend(tensors.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + data_bytes, 0);
    bytes
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn pair(key: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key).as_slice(), &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &[u8], dimensions: &[u64], offset: u64) -> Vec<u8> {
    let axes: Vec<u8> = dimensions.iter().flat_map(|axis| axis.to_le_bytes()).collect();
    let count = (dimensions.len() as u32).to_le_bytes();
    [text(name).as_slice(), &count, &axes, &0u32.to_le_bytes(), &offset.to_le_bytes()].concat()
}

fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), count.to_le_bytes().as_slice(), elements].concat()
}

#[test]
fn hostile_files_are_refused_in_words() {
    let header = |version: [u8; 4], tensors: u64, pairs: u64| {
        [b"GGUF".as_slice(), &version, &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat()
    };
    let pairs = |pairs: &[Vec<u8>]| by_hand(pairs, &[], 0);
    let tensors = |tensors: &[Vec<u8>]| by_hand(&[], tensors, 64);
    let nested = (0..6).fold(array(4, 0, &[]), |inner, _| array(9, 1, &inner));
    let number = |number: u32| number.to_le_bytes().to_vec();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "does not begin with `GGUF`"),
        (b"GGU".to_vec(), "does not begin with `GGUF`"),
        (b"PK\x03\x04 something".to_vec(), "does not begin with `GGUF`"),
        (header([0, 0, 0, 3], 0, 0), "big-endian"),
        (header([1, 0, 0, 0], 0, 0), "version is 1; 2 and 3"),
        (header([9, 0, 0, 0], 0, 0), "version is 9"),
        (header([3, 0, 0, 0], u64::MAX, 0), "claims 18446744073709551615 tensors"),
        (header([3, 0, 0, 0], 0, 1 << 40), "metadata keys"),
        (header([3, 0, 0, 0], 0, 0)[..20].to_vec(), "ends too early"),
        (pairs(&[pair(b"k", 13, &[0; 8])]), "value type 13"),
        (
            pairs(&[pair(b"k", 8, &u64::MAX.to_le_bytes())]),
            "key `k`: the file claims 18446744073709551615 bytes",
        ),
        (pairs(&[pair(b"k", 8, &text(b"\xff\xfe"))]), "is not UTF-8"),
        (pairs(&[pair(b"\xc3\x28", 4, &number(1))]), "is not UTF-8"),
        (pairs(&[pair(b"k", 9, &array(8, 1 << 60, &[]))]), "elements of an array"),
        (pairs(&[pair(b"k", 9, &array(10, u64::MAX, &[]))]), "elements of an array"),
        (pairs(&[pair(b"k", 9, &nested)]), "nested deeper than 4"),
        (pairs(&[pair(b"k", 4, &number(1)), pair(b"k", 4, &number(2))]), "`k` appears twice"),
        (pairs(&[pair(b"general.alignment", 4, &number(0))]), "a power of two"),
        (pairs(&[pair(b"general.alignment", 4, &number(48))]), "a power of two"),
        (pairs(&[pair(b"general.alignment", 4, &number(1 << 31))]), "a power of two"),
        (tensors(&[tensor(b"t", &[], 0)]), "`t`: it has 0 dimensions"),
        (tensors(&[tensor(b"t", &[1; 5], 0)]), "`t`: it has 5 dimensions"),
        (tensors(&[tensor(b"t", &[4, 0], 0)]), "a dimension is zero"),
        (tensors(&[tensor(b"t", &[1 << 33, 1 << 33], 0)]), "too large"),
        (tensors(&[tensor(b"t", &[u64::MAX], 0)]), "too large"),
        (tensors(&[tensor(b"t", &[1], 16)]), "no multiple of 32"),
        (tensors(&[tensor(b"t", &[1], u64::MAX)]), "tensor `t` lies at"),
        (tensors(&[tensor(b"t", &[1], u64::MAX - 31)]), "tensor `t` lies at"),
        (tensors(&[tensor(b"t", &[1], 64)]), "cut short"),
        (tensors(&[tensor(b"t", &[1], 0), tensor(b"t", &[1], 32)]), "`t` appears twice"),
        (tensors(&[tensor(b"t", &[1], 32), tensor(b"s", &[1], 32)]), "overlap"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    for (bytes, expected) in cases {
        std::fs::write(&path, &bytes).unwrap();
        let message = File::open(&path).map(drop).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
    std::fs::write(&path, by_hand(&[], &[tensor(b"t", &[1], 32), tensor(b"s", &[1], 0)], 64)).unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(file.tensors().iter().map(|tensor| file.bytes(tensor).len()).collect::<Vec<_>>(), [32, 32]);
}

#[test]
fn parts_are_opened_together() {
    let folder = tempfile::tempdir().unwrap();
    let part = |number: usize, no: u16, tensors: &[&str]| {
        let mut writer = Writer::new();
        if number == 1 {
            writer.set("general.architecture", "llama");
            writer.set("split.tensors.count", 3i32);
        }
        writer.set("split.no", no);
        writer.set("split.count", 2u16);
        tensors.iter().for_each(|name| writer.tensor(name, &[4], 24, 4));
        let mut stream = writer.begin(&folder.path().join(format!("m-{number:05}-of-00002.gguf"))).unwrap();
        tensors.iter().for_each(|name| stream.append(&[name.as_bytes()[0]; 4]).unwrap());
        stream.finish().unwrap();
    };
    let open = |number: usize| File::open(&folder.path().join(format!("m-{number:05}-of-00002.gguf")));
    let refused = |expected: &str| {
        let message = open(1).map(drop).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    part(1, 0, &["a"]);
    refused("m-00002-of-00002.gguf");
    part(2, 1, &["b", "c"]);
    for number in [1, 2] {
        let file = open(number).unwrap();
        assert_eq!(file.require::<&str>("general.architecture").unwrap(), "llama");
        let bytes: Vec<u8> = file.tensors().iter().map(|tensor| file.bytes(tensor)[0]).collect();
        assert_eq!(bytes, *b"abc");
        assert_eq!(file.paths().len(), 2);
    }
    part(2, 1, &["b"]);
    refused("hold 2 tensors of 3");
    part(2, 1, &["b", "a"]);
    refused("`a` is in two of its parts");
    part(2, 0, &["b", "c"]);
    refused("`split.no` is 0");
    std::fs::rename(folder.path().join("m-00001-of-00002.gguf"), folder.path().join("m.gguf")).unwrap();
    let message = File::open(&folder.path().join("m.gguf")).map(drop).unwrap_err().to_string();
    assert!(message.contains("one of 2 parts"), "{message}");
}

/// Opens `bytes` with a few places changed or cut and touches all that an open file offers.
fn mutate(bytes: &[u8], path: &Path, rng: &mut Rng) -> bool {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + rng.below(4) {
        let place = rng.below(bytes.len() as u64) as usize;
        match rng.below(4) {
            0 => bytes[place] = rng.below(256) as u8,
            1 => bytes[place] ^= 1 << rng.below(8),
            2 => bytes[place..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
            _ => bytes.truncate(place.max(1)),
        }
    }
    std::fs::write(path, &bytes).unwrap();
    let Ok(file) = File::open(path) else { return false };
    let values = file.keys().map(|key| file.get(key).unwrap().describe().len()).sum::<usize>();
    let rooms = file.tensors().iter().map(|tensor| file.bytes(tensor).len()).sum::<usize>();
    assert!(values + rooms <= 100 * bytes.len());
    true
}

#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(example(folder.path())).unwrap();
    let path = folder.path().join("damaged.gguf");
    let cases: u64 = std::env::var("TAOYE_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let mut rng = Rng::new(10, 0);
    let opened = (0..cases).filter(|_| mutate(&bytes, &path, &mut rng)).count() as u64;
    assert!(0 < opened && opened < cases, "{opened} of {cases} were opened");
}
