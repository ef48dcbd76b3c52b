//! How many requests each client may make a minute. Knows neither keys nor addresses, only their text.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients that are remembered at most; those whose buckets are full are forgotten first.
const CLIENTS_MAX: usize = 10_000;

/// A bucket of requests for each client, which fills as time goes by.
pub(crate) struct RateLimit {
    per_minute: u32,
    buckets: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    left: f64,
    seen: Instant,
}

impl RateLimit {
    /// So many requests a minute for each client, and as many at once.
    pub fn new(per_minute: u32) -> RateLimit {
        RateLimit { per_minute: per_minute.max(1), buckets: Mutex::default() }
    }

    /// Takes a request of `client` at `now`; the time to wait where it has none left.
    pub fn take(&self, client: &str, now: Instant) -> Result<(), Duration> {
        let most = f64::from(self.per_minute);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= CLIENTS_MAX && !buckets.contains_key(client) {
            buckets.retain(|_, bucket| now.duration_since(bucket.seen) < Duration::from_secs(60));
            if buckets.len() >= CLIENTS_MAX {
                return Err(Duration::from_secs(60));
            }
        }
        let bucket = buckets.entry(client.to_owned()).or_insert(Bucket { left: most, seen: now });
        let filled = now.duration_since(bucket.seen).as_secs_f64() * most / 60.0;
        bucket.left = (bucket.left + filled).min(most);
        bucket.seen = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.left) * 60.0 / most))
    }

    /// The limit.
    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let limit = RateLimit::new(2);
        let start = Instant::now();
        let take = |client: &str, seconds: u64| limit.take(client, start + Duration::from_secs(seconds));
        assert!(take("a", 0).is_ok() && take("a", 0).is_ok());
        assert_eq!(take("a", 0), Err(Duration::from_secs(30)));
        assert!(take("b", 0).is_ok(), "another client has its own");
        assert_eq!(take("a", 15), Err(Duration::from_secs(15)));
        assert!(take("a", 30).is_ok());
        assert!(take("a", 31).is_err());
        assert!(take("a", 600).is_ok() && take("a", 600).is_ok() && take("a", 600).is_err());
    }
}
