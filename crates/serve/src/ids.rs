//! Names of answers and seeds of those that bring none. Knows no request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// A number that no earlier call in this process gave, and hardly one in another process.
pub(crate) fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    base::seed::mix(now ^ base::seed::mix(count ^ u64::from(std::process::id())))
}

/// The name of an answer: `prefix` and 24 hexadecimal digits.
pub(crate) fn answer_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", fresh_seed(), COUNT.load(Ordering::Relaxed) as u32)
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
