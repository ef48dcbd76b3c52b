//! README.md and README.zh-CN.md say the same: the same headings, code, and numbers in tables.
//!
//! It must not know either language.

use super::Fault;

const ENGLISH: &str = "README.md";
const CHINESE: &str = "README.zh-CN.md";

pub fn check(english: Option<&str>, chinese: Option<&str>) -> Vec<Fault> {
    let fault = |path, message: String| Fault::new(path, 0, "readmes", message);
    let (english, chinese) = match (english, chinese) {
        (Some(english), Some(chinese)) => (Skeleton::of(english), Skeleton::of(chinese)),
        (english, chinese) => {
            let missing = [(ENGLISH, english), (CHINESE, chinese)];
            let missing = missing.iter().filter(|(_, text)| text.is_none());
            return missing.map(|(path, _)| fault(*path, "the file is missing".to_owned())).collect();
        }
    };
    [
        differs("headings (their levels)", &english.headings, &chinese.headings),
        differs("tables (the numbers of each row)", &english.table_numbers, &chinese.table_numbers),
        differs("code blocks", &english.code, &chinese.code),
    ]
    .into_iter()
    .flatten()
    .map(|message| fault(CHINESE, message))
    .collect()
}

/// What both files must share.
#[derive(Default)]
struct Skeleton {
    headings: Vec<String>,
    table_numbers: Vec<String>,
    code: Vec<String>,
}

impl Skeleton {
    fn of(text: &str) -> Skeleton {
        let mut skeleton = Skeleton::default();
        let mut is_code = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
                skeleton.code.push(line.trim().to_owned());
            } else if is_code {
                skeleton.code.push(line.to_owned());
            } else if line.starts_with('#') {
                skeleton.headings.push(line.chars().take_while(|&character| character == '#').collect());
            } else if line.trim_start().starts_with('|') {
                skeleton.table_numbers.push(numbers(line).join(" "));
            }
        }
        skeleton
    }
}

/// The numbers of a line, thousands separators taken out: `1,024` and `1024` are the same.
fn numbers(line: &str) -> Vec<String> {
    let is_inner = |character: char| matches!(character, '.' | ',');
    line.split(|character: char| !character.is_ascii_digit() && !is_inner(character))
        .map(|word| word.trim_matches(is_inner).replace(',', ""))
        .filter(|word| !word.is_empty())
        .collect()
}

/// Where two lists part, in words.
fn differs(what: &str, english: &[String], chinese: &[String]) -> Option<String> {
    let place =
        (0..english.len().max(chinese.len())).find(|&place| english.get(place) != chinese.get(place))?;
    let show = |list: &[String]| list.get(place).map_or("nothing".to_owned(), |text| format!("{text:?}"));
    let (left, right) = (show(english), show(chinese));
    Some(format!("{what} differ at the {}th: {left} in {ENGLISH}, {right} here", place + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH_TEXT: &str = "# Name\ntext 1\n## Speed\n| a | 1,024 | 2.5 s |\n```sh\ncargo run\n```\n";

    #[test]
    fn both_say_the_same() {
        for (chinese, part) in [
            ("# 名\n文字 2\n## 速度\n| 甲 | 1024 | 2.5 秒 |\n```sh\ncargo run\n```\n", None),
            ("# 名\n### 速度\n| 甲 | 1024 | 2.5 秒 |\n```sh\ncargo run\n```\n", Some("headings")),
            ("# 名\n## 速度\n| 甲 | 1024 | 2.6 秒 |\n```sh\ncargo run\n```\n", Some("tables")),
            ("# 名\n## 速度\n```sh\ncargo run\n```\n", Some("tables")),
            ("# 名\n## 速度\n| 甲 | 1024 | 2.5 秒 |\n```sh\ncargo test\n```\n", Some("code")),
        ] {
            let faults = check(Some(ENGLISH_TEXT), Some(chinese));
            assert_eq!(faults.len(), usize::from(part.is_some()), "{faults:?}");
            assert!(faults.iter().all(|fault| fault.message.starts_with(part.unwrap_or(""))), "{faults:?}");
        }
    }

    #[test]
    fn both_exist() {
        assert_eq!(check(Some(""), None).len(), 1);
        assert_eq!(check(None, None).len(), 2);
    }
}
