//! API keys: made, kept as hashes in a file, and recognised. Knows no request.

use std::collections::HashMap;
use std::path::Path;

use crate::{Error, Result};

/// What every key begins with, so that people and secret scanners know one.
const PREFIX: &str = "sk-taoye-";
/// Random bytes of a key.
const KEY_BYTES: usize = 32;
/// The longest name of a key.
const NAME_MAX: usize = 64;

/// The keys of a file: `NAME blake3:HASH` a line, `#` begins a comment. The keys themselves are nowhere.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    /// Hash → name.
    names: HashMap<String, String>,
}

impl ApiKeys {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Keys`] where it cannot be read, holds a line that is none, or no key at all.
    pub fn load(path: &Path) -> Result<ApiKeys> {
        let failed = |reason: String| Error::Keys { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let mut names = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (name, hash) = read_line(line).ok_or_else(|| {
                failed(format!(
                    "line {} is not `NAME blake3:HASH`; make keys by `taoye serve key new`",
                    number + 1
                ))
            })?;
            names.insert(hash.to_owned(), name.to_owned());
        }
        if names.is_empty() {
            return Err(failed(
                "it holds no key, so nobody could ask; make one by `taoye serve key new`".into(),
            ));
        }
        Ok(ApiKeys { names })
    }

    /// The name of a key; `None` for one that is not in the file.
    pub fn name_of(&self, key: &str) -> Option<&str> {
        // What is compared is a hash, so the time it takes says nothing about the key.
        self.names.get(&hash(key)).map(String::as_str)
    }

    /// Makes a key, adds its hash to the file under a name, and returns the key, which is shown this once.
    ///
    /// # Errors
    /// [`Error::Keys`] where the name is not one word or is taken, or the file cannot be written.
    pub fn add(path: &Path, name: &str) -> Result<String> {
        let failed = |reason: String| Error::Keys { path: path.to_owned(), reason };
        let is_word = !name.is_empty()
            && name.len() <= NAME_MAX
            && !name.contains(|c: char| c.is_whitespace() || c == '#');
        if !is_word {
            return Err(failed(format!("the name {name:?} is not one word of at most {NAME_MAX} bytes")));
        }
        let mut text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        if text.lines().filter_map(read_line).any(|(taken, _)| taken == name) {
            return Err(failed(format!(
                "there is a key {name:?} already; remove its line, or choose another name"
            )));
        }
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| failed(format!("no random bytes: {error}")))?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("{PREFIX}{digits}");
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{name} blake3:{}\n", hash(&key)));
        base::fs::write_bytes(path, text.as_bytes()).map_err(|error| failed(error.to_string()))?;
        Ok(key)
    }
}

fn read_line(line: &str) -> Option<(&str, &str)> {
    let (name, hash) = line.trim().split_once(char::is_whitespace)?;
    let hash = hash.trim().strip_prefix("blake3:")?;
    (hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some((name, hash))
}

/// Keys are random and long, so one plain hash keeps them.
fn hash(key: &str) -> String {
    base::hash::hash_bytes(key.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.txt");
        let first = ApiKeys::add(&path, "alice").unwrap();
        std::fs::write(&path, format!("# people\n{}", std::fs::read_to_string(&path).unwrap().trim_end()))
            .unwrap();
        let second = ApiKeys::add(&path, "bob").unwrap();
        let keys = ApiKeys::load(&path).unwrap();
        assert_eq!((keys.name_of(&first), keys.name_of(&second)), (Some("alice"), Some("bob")));
        assert_eq!(keys.name_of("sk-taoye-"), None);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&first) && !text.contains(&first[PREFIX.len()..]));
        let check = |name: &str, part: &str| {
            let message = ApiKeys::add(&path, name).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("keys.txt"), "{message}");
        };
        check("alice", "a key \"alice\" already");
        check("two words", "not one word");
        std::fs::write(&path, "alice secret\n").unwrap();
        assert!(ApiKeys::load(&path).unwrap_err().to_string().contains("line 1 is not"));
        std::fs::write(&path, "# nobody\n").unwrap();
        assert!(ApiKeys::load(&path).unwrap_err().to_string().contains("no key"));
    }
}
