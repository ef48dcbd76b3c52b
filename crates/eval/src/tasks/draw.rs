//! Repeatable draws for task items, and the split of operands into training and test.
//!
//! It must not know what is drawn.

/// One operand set in this many belongs to the test split.
const TEST_SHARE: u64 = 5;

/// Which items operands may appear in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    Test,
}

impl Split {
    /// The split of operands in canonical form: a hash of the text, the same on every machine.
    pub(super) fn of(key: &str) -> Split {
        // FNV-1a, 64 bit (http://www.isthe.com/chongo/tech/comp/fnv/), then mixed so that low bits depend on all.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        if mix(hash).is_multiple_of(TEST_SHARE) { Split::Test } else { Split::Train }
    }
}

/// A stream of numbers that depends only on the words that it was made from.
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    /// A stream for these words; different words give unrelated streams.
    pub(super) fn new(words: [u64; 4]) -> Draws {
        let state = words.into_iter().fold(0, |state, word| mix(state ^ word).wrapping_add(GOLDEN));
        Draws { state }
    }

    /// A number in `0..bound`; the bias of the multiplication is below 2⁻⁵⁰ for the bounds used here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        ((u128::from(mix(self.state)) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of the choices.
    pub(super) fn pick<'choices, T>(&mut self, choices: &'choices [T]) -> &'choices T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// Puts the values into a random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, values: &mut [T]) {
        for end in (1..values.len()).rev() {
            values.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

/// The step of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64: a bijection of 64-bit words that spreads every bit.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
