//! Tests of the task generators.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_reply_is_right_when_its_last_line_is() {
    let item = train_item(1, 0);
    let right = item.final_answer();
    for (reply, correct) in [
        (item.answer.clone(), true),
        (right.to_string(), true),
        (format!("working\n  {right} \n\n"), true),
        (format!("{right}\nand more"), false),
        (format!("{right}0"), false),
        (String::new(), false),
    ] {
        assert_eq!(score(&item, &reply), correct, "{reply:?}");
    }
}
