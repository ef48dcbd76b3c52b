//! Failures, checkpoints, and the share of the time that is left for training.
//!
//! Young 1974 ("A first order approximation to the optimum checkpoint interval") gives the interval, Daly 2006 ("A higher
//! order estimate of the optimum checkpoint interval for restart dumps", equation 20) the expected time. It must not know
//! what is trained.

/// Hours between failures of a chip and what belongs to it: Llama 3's 419 unexpected interruptions in 54 days on 16,384
/// H100 (Grattafiori et al. 2024, arXiv:2407.21783, section 3.3.4).
pub const CHIP_HOURS_BETWEEN_FAILURES: f64 = 54.0 * 24.0 * 16_384.0 / 419.0;

/// What failures and checkpoints depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reliability {
    /// Hours between failures of one chip.
    pub chip_hours_between_failures: f64,
    /// Seconds from a failure until training goes on: noticing, replacing, loading.
    pub restart_seconds: f64,
    /// Bytes a second at which a chip's state is copied aside while training waits.
    pub copy_bytes_per_second: f64,
    /// Bytes a second at which all chips together write to storage, beside training.
    pub storage_bytes_per_second: f64,
}

impl Reliability {
    /// Llama 3's failure rate, ten minutes to restart, 10 GB/s from a chip to its host (PCIe), and storage of 122 MB/s a chip
    /// (2 TB/s for 16,384, ibid., section 3.3.1).
    pub fn usual(chips: f64) -> Reliability {
        Reliability {
            chip_hours_between_failures: CHIP_HOURS_BETWEEN_FAILURES,
            restart_seconds: 600.0,
            copy_bytes_per_second: 10e9,
            storage_bytes_per_second: chips * 2e12 / 16_384.0,
        }
    }
}

/// How a run fares with failures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Seconds between failures of the whole cluster.
    pub seconds_between_failures: f64,
    /// Seconds that training waits for a checkpoint.
    pub checkpoint_seconds: f64,
    /// Seconds that writing it to storage takes beside training.
    pub write_seconds: f64,
    /// Seconds of training between checkpoints that lose least.
    pub interval_seconds: f64,
    /// Share of the time that trains.
    pub goodput: f64,
}

/// The course of a run on `chips` whose state is `state_bytes` in all.
pub fn course(reliability: &Reliability, chips: f64, state_bytes: f64) -> Course {
    let seconds_between_failures = reliability.chip_hours_between_failures * 3600.0 / chips;
    let checkpoint_seconds = state_bytes / chips / reliability.copy_bytes_per_second;
    let write_seconds = state_bytes / reliability.storage_bytes_per_second;
    // Young's interval, but no sooner than the checkpoint before is written.
    let interval_seconds = (2.0 * checkpoint_seconds * seconds_between_failures).sqrt().max(write_seconds);
    Course {
        seconds_between_failures,
        checkpoint_seconds,
        write_seconds,
        interval_seconds,
        goodput: goodput(
            interval_seconds,
            checkpoint_seconds,
            reliability.restart_seconds,
            seconds_between_failures,
        ),
    }
}

/// Useful over expected time with checkpoints of `checkpoint` seconds every `interval` seconds of training, `restart` seconds
/// after each failure, and `between` seconds between failures, which come independently (Daly 2006, equation 20).
pub fn goodput(interval: f64, checkpoint: f64, restart: f64, between: f64) -> f64 {
    let expected = between * (restart / between).exp() * (((interval + checkpoint) / between).exp_m1());
    interval / expected
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3: 419 failures in 54 days, and more than 90 % of the time effective (ibid., section 3.3.4).
    #[test]
    fn llama_3_keeps_nine_tenths() {
        let course = course(&Reliability::usual(16_384.0), 16_384.0, 405.9e9 * 14.0);
        let failures = 54.0 * 86_400.0 / course.seconds_between_failures;
        assert!((failures - 419.0).abs() < 0.5, "{failures}");
        assert!((0.90..0.97).contains(&course.goodput), "{course:?}");
    }

    /// BLOOM, which had no part in the rate: one or two chips failed a week among 384 (Le Scao et al. 2022,
    /// arXiv:2211.05100, section 3.3).
    #[test]
    fn bloom_fails_once_or_twice_a_week() {
        let week = 384.0 * 168.0 / CHIP_HOURS_BETWEEN_FAILURES;
        assert!((1.0..2.0).contains(&week), "{week}");
    }

    #[test]
    fn youngs_interval_is_best() {
        let (checkpoint, restart, between) = (30.0, 600.0, 40_000.0_f64);
        let young = (2.0 * checkpoint * between).sqrt();
        let best = goodput(young, checkpoint, restart, between);
        for factor in [0.5, 0.7, 1.4, 2.0] {
            assert!(goodput(young * factor, checkpoint, restart, between) < best);
        }
    }

    /// Failures drawn one by one give what the formula expects.
    #[test]
    fn the_formula_is_what_a_simulation_gives() {
        let (interval, checkpoint, restart, between) = (900.0, 20.0, 300.0, 7_200.0);
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            -((state >> 11) as f64 / (1_u64 << 53) as f64).max(1e-12).ln() * between
        };
        let (mut time, mut next) = (0.0, draw());
        let pieces = 20_000;
        for _ in 0..pieces {
            loop {
                if next > time + interval + checkpoint {
                    time += interval + checkpoint;
                    break;
                }
                time = next;
                // A restart may itself be interrupted.
                loop {
                    next = time + draw();
                    if next > time + restart {
                        time += restart;
                        break;
                    }
                    time = next;
                }
            }
        }
        let simulated = f64::from(pieces) * interval / time;
        let expected = goodput(interval, checkpoint, restart, between);
        assert!((simulated / expected - 1.0).abs() < 0.02, "{simulated} {expected}");
    }
}
