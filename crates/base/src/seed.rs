//! Seeded randomness that is the same on every platform: a counter-based generator and a bijection of indices.
//! It must not know what the numbers are for.

use std::ops::Range;

/// Philox4x32-10: a counter-based generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011,
/// section 3.3). Its state is (seed, stream, position), so a stream can be entered anywhere and two streams of one
/// seed are independent.
///
/// Everything is made of integer arithmetic and of float operations that IEEE 754 rounds exactly, so a seed gives
/// the same bytes on every platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Rng {
    key: [u32; 2],
    stream: u64,
    block: u64,
    words: [u32; 4],
    used: usize,
    spare_normal: Option<f64>,
}

impl Rng {
    /// The generator for one purpose (`stream`) of a seed, at its beginning.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self::at(seed, stream, 0)
    }

    /// As [`Rng::new`], but starting at the given block of 128 bits (two calls of [`Rng::next_u64`] each).
    pub fn at(seed: u64, stream: u64, block: u64) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        Self { key, stream, block, words: [0; 4], used: 4, spare_normal: None }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter = [
                self.block as u32,
                (self.block >> 32) as u32,
                self.stream as u32,
                (self.stream >> 32) as u32,
            ];
            self.words = philox(counter, self.key);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// 64 uniform bits, the low half drawn first.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | (u64::from(self.next_u32()) << 32)
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform in `0..limit` without bias (Lemire, "Fast Random Integer Generation in an Interval", 2019, algorithm 5).
    /// `limit` must not be zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "Rng::below needs a limit above zero");
        let mut product = u128::from(self.next_u64()) * u128::from(limit);
        if (product as u64) < limit {
            let threshold = limit.wrapping_neg() % limit;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(limit);
            }
        }
        (product >> 64) as u64
    }

    /// Uniform in a range that is not empty, without bias.
    pub fn range(&mut self, range: Range<i64>) -> i64 {
        assert!(range.start < range.end, "Rng::range needs a range that is not empty");
        range.start.wrapping_add(self.below(range.end.wrapping_sub(range.start) as u64) as i64)
    }

    /// Standard normal (Marsaglia's polar method, "A convenient method for generating normal variables", 1964).
    /// It needs only a square root, which IEEE 754 rounds exactly, and [`ln`], our own.
    pub fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare_normal.take() {
            return spare as f32;
        }
        loop {
            let x = 2.0 * self.uniform_f64() - 1.0;
            let y = 2.0 * self.uniform_f64() - 1.0;
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                let factor = (-2.0 * ln(square) / square).sqrt();
                self.spare_normal = Some(y * factor);
                return (x * factor) as f32;
            }
        }
    }

    /// Fills with normals of mean zero and the given standard deviation.
    pub fn fill_normal(&mut self, values: &mut [f32], deviation: f32) {
        for value in values {
            *value = self.normal() * deviation;
        }
    }

    /// A uniformly chosen element; `items` must not be empty.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// The place of `index` in a seeded permutation of `0..count`: a bijection that needs no table.
///
/// A balanced Feistel network over the next power of four, walked until it falls inside (Black and Rogaway, "Ciphers
/// with Arbitrary Finite Domains", 2002, section 3: cycle walking). `index` must be below `count`.
pub fn permute(seed: u64, count: u64, index: u64) -> u64 {
    assert!(index < count, "permute: index {index} is not below {count}");
    let bits = 64 - (count - 1).leading_zeros();
    let half_bits = bits.div_ceil(2);
    let mask = if half_bits == 0 { 0 } else { u64::MAX >> (64 - half_bits) };
    let mut value = index;
    loop {
        let mut left = value.checked_shr(half_bits).unwrap_or(0) & mask;
        let mut right = value & mask;
        for round in 0..FEISTEL_ROUNDS {
            let mixed = mix(right ^ mix(seed.wrapping_add(round.wrapping_mul(GOLDEN_GAMMA))));
            (left, right) = (right, left ^ (mixed & mask));
        }
        value = (left << half_bits) | right;
        if value < count {
            return value;
        }
    }
}

/// SplitMix64's finaliser (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014): a
/// bijection of 64 bits that turns near numbers into far ones. Good for deriving seeds.
pub fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(GOLDEN_GAMMA);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Natural logarithm of a positive normal number from exact operations only: m·2ᵉ with m in [√½, √2), then the series
/// of 2·artanh((m−1)/(m+1)) to its eleventh term. Relative error under 1e-14.
pub fn ln(value: f64) -> f64 {
    debug_assert!(value >= f64::MIN_POSITIVE && value.is_finite());
    let bits = value.to_bits();
    let mut exponent = ((bits >> 52) & 0x7FF) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let mut sum = 0.0;
    for term in (0..11).rev() {
        sum = sum * square + 1.0 / f64::from(2 * term + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * ratio * sum
}

const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
/// Four rounds suffice against a chosen-plaintext adversary (Luby and Rackoff); narrow halves deserve more.
const FEISTEL_ROUNDS: u64 = 8;
const PHILOX_MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const PHILOX_WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(PHILOX_MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(PHILOX_MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(PHILOX_WEYL[0]), key[1].wrapping_add(PHILOX_WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // The known-answer vectors of Random123 (kat_vectors, philox 4x32, 10 rounds).
        let cases = [
            ([0; 4], [0; 2], [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]),
            ([!0; 4], [!0; 2], [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]),
            (
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0xA409_3822, 0x299F_31D0],
                [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn streams_differ_and_can_be_entered_anywhere() {
        let mut whole = Rng::new(7, 3);
        let values: Vec<u64> = (0..20).map(|_| whole.next_u64()).collect();
        let mut later = Rng::at(7, 3, 5);
        assert_eq!((0..10).map(|_| later.next_u64()).collect::<Vec<_>>(), values[10..]);
        assert_ne!(Rng::new(7, 4).next_u64(), values[0]);
        assert_ne!(Rng::new(8, 3).next_u64(), values[0]);
    }

    #[test]
    fn below_is_unbiased_and_range_covers_its_ends() {
        let mut rng = Rng::new(1, 0);
        let limit = 3 * (1u64 << 62);
        let low = (0..30_000).filter(|_| rng.below(limit) < (1 << 62)).count();
        assert!((9_600..10_400).contains(&low), "a third of 30,000 expected, got {low}");
        let mut seen = [0; 5];
        for _ in 0..5_000 {
            seen[(rng.range(-2..3) + 2) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1_150).contains(&count)), "{seen:?}");
        assert_eq!(rng.range(i64::MAX - 1..i64::MAX), i64::MAX - 1);
    }

    #[test]
    fn normals_have_the_normal_moments() {
        let mut rng = Rng::new(42, 9);
        let count = 200_000;
        let values: Vec<f64> = (0..count).map(|_| f64::from(rng.normal())).collect();
        let moment =
            |power: i32| values.iter().map(|value| value.powi(power)).sum::<f64>() / f64::from(count);
        for (power, expected, tolerance) in [(1, 0.0, 0.01), (2, 1.0, 0.02), (3, 0.0, 0.04), (4, 3.0, 0.12)] {
            assert!((moment(power) - expected).abs() < tolerance, "moment {power}: {}", moment(power));
        }
        let far = values.iter().filter(|value| value.abs() > 3.0).count();
        assert!((400..700).contains(&far), "0.27 % beyond three deviations expected, got {far} of {count}");
    }

    #[test]
    fn logarithm_agrees_with_the_standard_library() {
        let mut value = 1e-300;
        while value < 1e300 {
            let (ours, theirs) = (ln(value), f64::ln(value));
            assert!((ours - theirs).abs() <= 1e-14 * theirs.abs().max(1e-3), "{value}: {ours} {theirs}");
            value *= 1.618_033;
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_for_good() {
        let mut rng = Rng::new(20_260_101, 1);
        let drawn = [rng.uniform(), rng.normal(), rng.normal(), rng.uniform_f64() as f32];
        assert_eq!(drawn.map(f32::to_bits), PINNED, "{:x?}", drawn.map(f32::to_bits));
    }
    /// The bits that the release of version 0.1.0 drew; a change here breaks every recorded run.
    const PINNED: [u32; 4] = [0x3E04_91E4, 0xBFED_9F37, 0xBF07_1FB9, 0x3DD9_5CBB];

    #[test]
    fn permute_is_a_bijection_that_mixes() {
        for count in [1, 2, 3, 4, 5, 16, 17, 100, 1_000, 4_097] {
            let mut places: Vec<u64> = (0..count).map(|index| permute(5, count, index)).collect();
            let fixed = places.iter().enumerate().filter(|&(index, &place)| index as u64 == place).count();
            if count >= 100 {
                assert!(fixed < 12, "{fixed} fixed points of {count}");
            }
            places.sort_unstable();
            assert!(places.iter().enumerate().all(|(index, &place)| index as u64 == place), "{count}");
        }
        assert!(permute(5, u64::MAX, u64::MAX - 1) < u64::MAX);
        assert!((0..100).any(|index| permute(1, 100, index) != permute(2, 100, index)));
    }

    #[test]
    fn shuffle_keeps_the_items() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(3, 3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
