//! Ten thousand requests leave no memory behind. The only test of its process, so that what it measures is its own.
#![allow(clippy::unwrap_used)]

mod client;

use std::sync::atomic::{AtomicUsize, Ordering};

use client::{Answer, Running};
use serde_json::json;
use serve::ServeOptions;

/// Growth that is put down to the allocator: its arenas and the sockets' buffers.
const GROWTH_MAX: u64 = 4 << 20;

/// Has many different prompts answered, whole and in pieces, by several clients at once.
fn ask(server: &Running, numbers: std::ops::Range<usize>) {
    let next = AtomicUsize::new(numbers.start);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    let body = json!({
                        "messages": [{"role": "user", "content": format!("{number} kilns, {} ores", number * 7919)}],
                        "max_tokens": 4,
                        "stream": number.is_multiple_of(2),
                        "logprobs": number.is_multiple_of(3),
                    });
                    let path = "/v1/chat/completions";
                    let mut answer = Answer::open(server.address, "POST", path, body.to_string().as_bytes());
                    let rest = answer.rest();
                    assert_eq!(answer.status, 200, "{rest}");
                }
            });
        }
    });
}

#[test]
fn ten_thousand_requests_leave_memory_as_it_was() {
    let server = Running::start(256, ServeOptions::default());
    ask(&server, 0..1000);
    let Some(thousand) = base::machine::rss_bytes() else { return };
    ask(&server, 1000..10_000);
    let all = base::machine::rss_bytes().unwrap();
    println!("{thousand} bytes after 1,000 requests, {all} after 10,000");
    assert!(all <= thousand + GROWTH_MAX, "{thousand} bytes after 1,000 requests, {all} after 10,000");
}
