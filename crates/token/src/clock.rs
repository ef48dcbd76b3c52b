//! The date and time for templates that print it (`strftime_now`). Must not know templates beyond that one function.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The present moment in UTC by a `strftime` format; errors name a directive that is not known.
pub(crate) fn strftime_now(format: String) -> Result<String, minijinja::Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    strftime(&format, seconds)
        .map_err(|detail| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, detail))
}

/// `seconds` since 1970 in UTC by the directives Y m d H M S y B b A a j and %.
fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('H') => out.push_str(&format!("{:02}", second / 3600)),
            Some('M') => out.push_str(&format!("{:02}", second / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", second % 60)),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('j') => out.push_str(&format!("{:03}", day_of_year(days))),
            Some('%') => out.push('%'),
            other => {
                let name = other.map(String::from).unwrap_or_default();
                return Err(format!("strftime_now does not know %{name}; use Y m d H M S y B b A a j"));
            }
        }
    }
    Ok(out)
}

/// Year, month (1–12) and day (1–31) of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= year_days(year) {
        days -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

fn day_of_year(days: u64) -> u64 {
    let (year, month, day) = civil_date(days);
    (1..month).map(|month| month_days(year, month)).sum::<u64>() + day
}

fn year_days(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn formats_equal_those_of_date() {
        // Expected by `date -u -d @SECONDS +FORMAT` of GNU coreutils.
        let all = "%Y-%m-%d %H:%M:%S %y %B %b %A %a %j %%";
        let cases = [
            (0, "1970-01-01 00:00:00 70 January Jan Thursday Thu 001 %"),
            (951_782_399, "2000-02-28 23:59:59 00 February Feb Monday Mon 059 %"),
            (951_782_400, "2000-02-29 00:00:00 00 February Feb Tuesday Tue 060 %"),
            (1_798_761_599, "2026-12-31 23:59:59 26 December Dec Thursday Thu 365 %"),
            (4_107_542_400, "2100-03-01 00:00:00 00 March Mar Monday Mon 060 %"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(strftime(all, seconds).as_deref(), Ok(expected));
        }
        assert!(strftime("%Q", 0).is_err_and(|detail| detail.contains("%Q")));
    }
}
