//! Prints task items, one a line, tabs between: split, family, question, answer (`\n` for a new line).
//!
//! `cargo run -p eval --example print_tasks -- TRAIN_ITEMS TEST_ITEMS_PER_FAMILY`. It must not know any model.

use eval::tasks::{Item, test_items, train_item};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a number of items"));
    let (train, test) = (numbers.next().unwrap_or(14), numbers.next().unwrap_or(2));
    (0..train as u64).for_each(|index| print("train", &train_item(1, index)));
    test_items(1, test).iter().for_each(|item| print("test", item));
}

fn print(split: &str, item: &Item) {
    let on_one_line = |text: &str| text.replace('\n', "\\n");
    println!(
        "{split}\t{}\t{}\t{}",
        item.family.name(),
        on_one_line(&item.question),
        on_one_line(&item.answer)
    );
}
