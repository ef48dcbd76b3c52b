//! Numbers with units, as people write them: "70B", "4T tokens", "1PB", "10d", "1,000亿".
//!
//! A unit of another kind, an unknown one, and a number that is not above zero are refused, each by name. It must not
//! know what a number is for.

/// What is wrong with a number, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// There is no number at the beginning.
    #[error("`{text}` does not begin with a number; write for example {example}")]
    NoNumber {
        /// What was given.
        text: String,
        /// What could be.
        example: &'static str,
    },
    /// The unit is not one of this kind.
    #[error("`{text}`: `{unit}` is no unit of {kind}; known: {known}{hint}")]
    UnknownUnit {
        /// What was given.
        text: String,
        /// Its unit.
        unit: String,
        /// The kind of number wanted.
        kind: &'static str,
        /// The units there are.
        known: &'static str,
        /// What may have been meant, or nothing.
        hint: String,
    },
    /// A number whose unit nobody can guess.
    #[error("`{text}` has no unit; write one of {known}")]
    NoUnit {
        /// What was given.
        text: String,
        /// The units there are.
        known: &'static str,
    },
    /// Zero, less than zero, or beyond what can be computed with.
    #[error("`{text}` must be a finite number above zero")]
    OutOfRange {
        /// What was given.
        text: String,
    },
}

/// Names of a unit, and what one of it is.
type Unit = (&'static [&'static str], f64);

const COUNTS: &[Unit] = &[
    (&["k", "thousand", "千"], 1e3),
    (&["m", "mn", "million", "百万"], 1e6),
    (&["b", "bn", "g", "billion", "十亿"], 1e9),
    (&["t", "tn", "trillion", "万亿", "兆"], 1e12),
    (&["q", "quadrillion", "千万亿"], 1e15),
    (&["万"], 1e4),
    (&["千万"], 1e7),
    (&["亿"], 1e8),
    (&["百亿"], 1e10),
    (&["千亿"], 1e11),
    (&[""], 1.0),
];
const COUNT_NAMES: &str = "K, M, B, T, Q, 万, 亿, 千亿, 万亿";
const BYTES: &[Unit] = &[
    (&["b", "byte", "bytes"], 1.0),
    (&["kb"], 1e3),
    (&["mb"], 1e6),
    (&["gb"], 1e9),
    (&["tb"], 1e12),
    (&["pb"], 1e15),
    (&["eb"], 1e18),
    (&["kib"], 1024.0),
    (&["mib"], 1_048_576.0),
    (&["gib"], 1_073_741_824.0),
    (&["tib"], 1_099_511_627_776.0),
    (&["pib"], 1_125_899_906_842_624.0),
];
const BYTE_NAMES: &str = "B, kB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB";
const SECONDS: &[Unit] = &[
    (&["µs", "μs", "us", "microsecond", "microseconds", "微秒"], 1e-6),
    (&["ms", "millisecond", "milliseconds", "毫秒"], 1e-3),
    (&["s", "sec", "second", "seconds", "秒"], 1.0),
    (&["min", "minute", "minutes", "分钟", "分"], 60.0),
    (&["h", "hour", "hours", "小时"], 3_600.0),
    (&["d", "day", "days", "天", "日"], 86_400.0),
    (&["w", "week", "weeks", "周", "星期"], 604_800.0),
    (&["month", "months", "个月", "月"], 2_629_800.0),
    (&["y", "year", "years", "年"], 31_557_600.0),
];
const SECOND_NAMES: &str = "µs, ms, s, min, h, d, w, months, y";

/// A count such as `70B`, `1.4T` or `6千亿`; a word behind the unit must be `noun` (`4T tokens`).
///
/// # Errors
/// [`UnitError`], by name.
pub fn count(text: &str, noun: &'static str) -> Result<f64, UnitError> {
    let (number, unit) = split(text, "70B or 1.4T")?;
    let unit = unit.strip_suffix(noun).or_else(|| unit.strip_suffix(noun.trim_end_matches('s')));
    let unit = unit.unwrap_or_else(|| split(text, "").map_or("", |parts| parts.1)).trim();
    scaled(text, number, unit, COUNTS, (noun, COUNT_NAMES))
}

/// An amount of data such as `1PB` or `512 GiB`, in bytes.
///
/// # Errors
/// [`UnitError`], by name.
pub fn bytes(text: &str) -> Result<f64, UnitError> {
    let (number, unit) = split(text, "1PB or 512GiB")?;
    scaled(text, number, unit, BYTES, ("data", BYTE_NAMES))
}

/// A time such as `10d`, `36 h` or `2 weeks`, in seconds; a bare number counts days.
///
/// # Errors
/// [`UnitError`], by name.
pub fn seconds(text: &str) -> Result<f64, UnitError> {
    let (number, unit) = split(text, "10d or 36h")?;
    let unit = if unit.is_empty() { "d" } else { unit };
    scaled(text, number, unit, SECONDS, ("time", SECOND_NAMES))
}

/// A short time such as `30ms` or `10min`, in seconds. A bare number is refused: nobody means days by it.
///
/// # Errors
/// [`UnitError`], by name.
pub fn short_seconds(text: &str) -> Result<f64, UnitError> {
    match split(text, "30ms or 10min")? {
        (_, "") => Err(UnitError::NoUnit { text: text.to_owned(), known: SECOND_NAMES }),
        _ => seconds(text),
    }
}

/// The number at the beginning and the rest. Commas and underscores between digits are thousands' separators.
fn split<'a>(text: &'a str, example: &'static str) -> Result<(f64, &'a str), UnitError> {
    let trimmed = text.trim();
    let is_number = |(place, character): (usize, char)| match character {
        '0'..='9' | '.' | ',' | '_' => true,
        '+' | '-' => place == 0 || trimmed[..place].ends_with(['e', 'E']),
        'e' | 'E' => trimmed[place + 1..]
            .trim_start_matches(['+', '-'])
            .starts_with(|next: char| next.is_ascii_digit()),
        _ => false,
    };
    let end = trimmed.char_indices().find(|at| !is_number(*at)).map_or(trimmed.len(), |at| at.0);
    let digits: String = trimmed[..end].chars().filter(|character| !matches!(character, ',' | '_')).collect();
    match digits.parse::<f64>() {
        Ok(number) => Ok((number, trimmed[end..].trim())),
        Err(_) => Err(UnitError::NoNumber { text: text.to_owned(), example }),
    }
}

fn scaled(
    text: &str,
    number: f64,
    unit: &str,
    units: &[Unit],
    (kind, known): (&'static str, &'static str),
) -> Result<f64, UnitError> {
    let lower = unit.to_lowercase();
    let Some((_, scale)) = units.iter().find(|(names, _)| names.contains(&lower.as_str())) else {
        let hint = hint(&lower, kind);
        return Err(UnitError::UnknownUnit {
            text: text.to_owned(),
            unit: unit.to_owned(),
            kind,
            known,
            hint,
        });
    };
    let value = number * scale;
    match value.is_finite() && value > 0.0 {
        true => Ok(value),
        false => Err(UnitError::OutOfRange { text: text.to_owned() }),
    }
}

/// What a unit that is none of its kind may have meant.
fn hint(unit: &str, kind: &str) -> String {
    let is = |units: &[Unit]| units.iter().any(|(names, _)| names.contains(&unit));
    match kind {
        "time" if unit == "m" => "; `m` could be minutes or months: write min or months".to_owned(),
        "data" if is(COUNTS) => format!("; write {}B for bytes", unit.to_uppercase()),
        "data" => String::new(),
        "time" => String::new(),
        _ if is(BYTES) => format!("; {unit} counts bytes: give raw data with --raw"),
        _ if is(SECONDS) => format!("; {unit} is a time"),
        _ => String::new(),
    }
}

/// A count for people: "1.40 T", "70.0 B".
pub fn show_count(value: f64) -> String {
    let unit = [(1e18, " E"), (1e15, " Q"), (1e12, " T"), (1e9, " B"), (1e6, " M"), (1e4, " k")]
        .into_iter()
        .find(|(scale, _)| value >= *scale);
    match unit {
        Some((1e4, _)) => format!("{} k", three(value / 1e3)),
        Some((scale, name)) => format!("{}{name}", three(value / scale)),
        None => three(value),
    }
}

/// Bytes for people, decimal: "80.0 GB".
pub fn show_bytes(value: f64) -> String {
    let unit = [(1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match unit.into_iter().find(|(scale, _)| value >= *scale) {
        Some((scale, name)) => format!("{} {name}", three(value / scale)),
        None => format!("{} B", three(value)),
    }
}

/// A time for people: "34.0 d", "12.5 h", "1.10 s".
pub fn show_seconds(value: f64) -> String {
    match value {
        value if value >= 2.0 * 86_400.0 => format!("{} d", three(value / 86_400.0)),
        value if value >= 2.0 * 3_600.0 => format!("{} h", three(value / 3_600.0)),
        value if value >= 120.0 => format!("{} min", three(value / 60.0)),
        value if value >= 1.0 => format!("{} s", three(value)),
        value if value >= 1e-3 => format!("{} ms", three(value * 1e3)),
        value => format!("{} µs", three(value * 1e6)),
    }
}

/// Three significant digits, more before the point where there are more.
pub fn three(value: f64) -> String {
    let size = value.abs();
    match size {
        size if size >= 1000.0 => grouped(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A whole number with commas between thousands.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        for (text, expected) in [
            ("70B", 70e9),
            ("1.4T", 1.4e12),
            ("4T tokens", 4e12),
            ("300e9", 300e9),
            ("2.5E3 M", 2.5e9),
            ("1,000 B", 1e12),
            ("1_000", 1e3),
            ("6千亿", 6e11),
            ("1.9万亿", 1.9e12),
            ("1 token", 1.0),
        ] {
            assert_eq!(count(text, "tokens").unwrap(), expected, "{text}");
        }
        for (text, expected) in [("1PB", 1e15), ("2 TiB", 2.199023255552e12), ("12 bytes", 12.0)] {
            assert_eq!(bytes(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in
            [("10d", 864e3), ("36 h", 129_600.0), ("2 weeks", 1_209_600.0), ("7", 604_800.0)]
        {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_short_time_has_a_unit() {
        assert_eq!(short_seconds("30ms"), Ok(0.03));
        assert_eq!(short_seconds("2 µs").map(|seconds| (seconds * 1e9).round()), Ok(2_000.0));
        assert_eq!(short_seconds("10min"), Ok(600.0));
        let message = short_seconds("30").unwrap_err().to_string();
        assert!(message.contains("`30` has no unit") && message.contains("ms"), "{message}");
        assert!(short_seconds("30 parsecs").is_err() && short_seconds("soon").is_err());
    }

    #[test]
    fn mistakes_are_named() {
        for (error, parts) in [
            (count("1PB", "tokens").unwrap_err(), &["`PB`", "tokens", "--raw"][..]),
            (count("10d", "tokens").unwrap_err(), &["`d`", "is a time"]),
            (count("lots", "tokens").unwrap_err(), &["lots", "number"]),
            (count("-3B", "parameters").unwrap_err(), &["-3B", "above zero"]),
            (count("0", "parameters").unwrap_err(), &["above zero"]),
            (count("1e999", "parameters").unwrap_err(), &["finite"]),
            (count("7X", "parameters").unwrap_err(), &["`X`", "known"]),
            (bytes("1P").unwrap_err(), &["`P`", "PB"]),
            (bytes("5T").unwrap_err(), &["write TB"]),
            (seconds("3m").unwrap_err(), &["minutes or months"]),
            (seconds("3 fortnights").unwrap_err(), &["fortnights", "ms, s, min"]),
            (count("1.2.3B", "tokens").unwrap_err(), &["1.2.3B"]),
        ] {
            let message = error.to_string();
            for part in parts {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(show_count(1.4e12), "1.40 T");
        assert_eq!(show_count(12_288.0), "12.3 k");
        assert_eq!(show_count(3072.0), "3,072");
        assert_eq!(show_bytes(80e9), "80.0 GB");
        assert_eq!(show_seconds(34.0 * 86_400.0), "34.0 d");
        assert_eq!(show_seconds(0.0031), "3.10 ms");
    }
}
