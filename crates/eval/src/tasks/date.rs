//! The date and the weekday some days after a given one.
//!
//! It must not know which split an item goes to.
//!
//! No year is named, so no question goes over the end of February.

use base::seed::Rng;

use super::draw::between;
use super::{Draft, Language};

/// Days of each month; February's end is never crossed.
const MONTH_DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
/// The furthest day asked for.
const DAYS_LATER_MAX: u64 = 9;
const FEBRUARY: u64 = 2;

const WEEKDAYS_ENGLISH: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const WEEKDAYS_CHINESE: [&str; 7] = ["星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"];

pub(super) fn draw(language: Language, draws: &mut Rng) -> Draft {
    let weekday = between(draws, 1, 7);
    let later = between(draws, 1, DAYS_LATER_MAX);
    let (month, day) = draw_day(draws, later);
    let names = match language {
        Language::English => WEEKDAYS_ENGLISH,
        Language::Chinese => WEEKDAYS_CHINESE,
    };
    let name = |number: u64| names[((number - 1) % 7) as usize];
    let question = ask(language, draws, &format!("{month:02}-{day:02} {}", name(weekday)), later);

    let month_days = MONTH_DAYS[month as usize - 1];
    let (mut working, mut month_after, mut day_after) =
        (add(day % 10, later) + &format!("\n{day:02}+{later}={:02}", day + later), month, day + later);
    if day_after > month_days {
        day_after -= month_days;
        month_after = month % 12 + 1;
        working.push_str(&format!("\n{:02}-{month_days}={day_after:02}", day + later));
    }
    let weekday_after = weekday + later;
    let answer = format!(
        "{working}\n{}\n{month_after:02}-{day_after:02} {}",
        add(weekday, later),
        name(weekday_after)
    );
    Draft { key: format!("date {month} {day} {later}"), question, answer }
}

/// A column of an addition with nothing carried, as in the sums: one fact for both.
fn add(left: u64, right: u64) -> String {
    format!("{left}+{right}+0={:02}", left + right)
}

/// A day whose successor by `later` days does not depend on whether the year is a leap year.
fn draw_day(draws: &mut Rng, later: u64) -> (u64, u64) {
    loop {
        let month = between(draws, 1, 12);
        let day = between(draws, 1, MONTH_DAYS[month as usize - 1]);
        if month != FEBRUARY || day + later <= MONTH_DAYS[1] {
            return (month, day);
        }
    }
}

fn ask(language: Language, draws: &mut Rng, today: &str, later: u64) -> String {
    let days = if later == 1 { "day" } else { "days" };
    match (language, draws.below(3)) {
        (Language::English, 0) => format!("Today is {today}. What day is it in {later} {days}?"),
        (Language::English, 1) => format!("It is {today}. Which date is {later} {days} later?"),
        (Language::English, _) => format!("Starting on {today}, what day comes after {later} {days}?"),
        (Language::Chinese, 0) => format!("今天是 {today}，{later} 天后是几号星期几？"),
        (Language::Chinese, 1) => format!("{today} 之后 {later} 天是哪天？"),
        (Language::Chinese, _) => format!("从 {today} 起，过 {later} 天是几号星期几？"),
    }
}
