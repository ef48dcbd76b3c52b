//! The rotary embedding's frequencies and the rules that stretch them to longer contexts. It must not know how rows are
//! rotated.

use tensor::kernels::{RotaryTable, exp_f64, ln_f64, rotary_frequencies};

/// A rotary position embedding (Su et al. 2021, arXiv:2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the wave lengths.
    pub theta: f64,
    /// The share of each head that is rotated, its first elements; 1 for most.
    pub fraction: f64,
    /// The rule for long contexts.
    pub scaling: RopeScaling,
}

/// How frequencies are changed for contexts longer than those of the first training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by the factor (Chen et al. 2023, arXiv:2306.15595).
    Linear {
        /// How many times longer contexts become.
        factor: f64,
    },
    /// The base grows with the sequence, once it is longer than `original` ("dynamic NTK").
    Dynamic {
        /// How many times longer contexts become.
        factor: f64,
        /// The context of the first training, in tokens.
        original: usize,
    },
    /// By parts (Peng et al. 2023, arXiv:2309.00071, section 3).
    Yarn {
        /// How many times longer contexts become.
        factor: f64,
        /// The context of the first training, in tokens.
        original: usize,
        /// Turns within the original context from which on a frequency stays; 32.
        beta_fast: f64,
        /// Turns below which it is divided by the factor; 1.
        beta_slow: f64,
        /// What rotated elements are multiplied with; else it follows from the factor and the next two.
        attention_factor: Option<f64>,
        /// DeepSeek's weight of the logarithm above.
        mscale: Option<f64>,
        /// The weight of the one that divides it.
        mscale_all_dim: Option<f64>,
        /// Whether the bounds between the parts are whole.
        truncate: bool,
    },
    /// By parts, as Llama 3.1 does it.
    Llama3 {
        /// How many times longer contexts become.
        factor: f64,
        /// Wave lengths longer than `original` / this are divided by the factor.
        low: f64,
        /// Wave lengths shorter than `original` / this stay.
        high: f64,
        /// The context of the first training, in tokens.
        original: usize,
    },
    /// Each frequency by a factor of its own (Ding et al. 2024, arXiv:2402.13753). Which of the two sets is used is decided
    /// for a sequence as a whole, by the length that it may reach.
    LongRope {
        /// Divisors in sequences up to `original` tokens, (rotated / 2).
        short: Vec<f64>,
        /// Divisors in longer ones, (rotated / 2).
        long: Vec<f64>,
        /// The context of the first training, in tokens.
        original: usize,
        /// How many times longer contexts become.
        factor: f64,
        /// What rotated elements are multiplied with; else sqrt(1 + ln(factor) / ln(original)).
        attention_factor: Option<f64>,
    },
}

impl Rope {
    /// The embedding of whole heads without a rule for long contexts.
    pub fn plain(theta: f64) -> Rope {
        Rope { theta, fraction: 1.0, scaling: RopeScaling::None }
    }

    /// Elements of a head that are rotated.
    pub fn rotated(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.fraction) as usize
    }

    /// The angles of `positions` positions for sequences of at most `tokens` tokens.
    pub fn table(&self, head_dim: usize, tokens: usize, positions: usize) -> RotaryTable {
        let (frequencies, magnitude) = self.frequencies(head_dim, tokens);
        let frequencies: Vec<f32> = frequencies.into_iter().map(|frequency| frequency as f32).collect();
        RotaryTable::from_frequencies(&frequencies, magnitude as f32, positions)
    }

    /// The length of sequences that decides over the frequencies of those of at most `tokens` tokens: equal ones have
    /// the same frequencies.
    pub fn deciding_length(&self, tokens: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { original, .. } => tokens.max(original),
            RopeScaling::LongRope { original, .. } => usize::from(tokens > original),
            _ => 0,
        }
    }

    /// The frequencies (rotated / 2), and what rotated elements are multiplied with.
    fn frequencies(&self, head_dim: usize, tokens: usize) -> (Vec<f64>, f64) {
        let rotated = self.rotated(head_dim);
        let mut frequencies = rotary_frequencies(rotated, self.theta);
        let mut magnitude = 1.0;
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                frequencies.iter_mut().for_each(|frequency| *frequency /= factor)
            }
            RopeScaling::Dynamic { factor, original } => {
                let longer = tokens.max(*original) as f64 / *original as f64;
                let exponent = rotated as f64 / (rotated as f64 - 2.0);
                let stretch = exp_f64(exponent * ln_f64(factor * longer - (factor - 1.0)));
                frequencies = rotary_frequencies(rotated, self.theta * stretch);
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let original = *original as f64;
                for frequency in &mut frequencies {
                    let turns = original * *frequency / (2.0 * std::f64::consts::PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *frequency *= (1.0 - kept) / factor + kept;
                }
            }
            RopeScaling::Yarn { .. } => magnitude = self.yarn(rotated, &mut frequencies),
            RopeScaling::LongRope { short, long, original, factor, attention_factor } => {
                let divisors = if tokens > *original { long } else { short };
                for (frequency, divisor) in frequencies.iter_mut().zip(divisors) {
                    *frequency /= divisor;
                }
                magnitude = attention_factor.unwrap_or_else(|| match *factor > 1.0 {
                    true => (1.0 + ln_f64(*factor) / ln_f64(*original as f64)).sqrt(),
                    false => 1.0,
                });
            }
        }
        (frequencies, magnitude)
    }

    /// Changes the frequencies by YaRN's rule and returns what rotated elements are multiplied with.
    fn yarn(&self, rotated: usize, frequencies: &mut [f64]) -> f64 {
        let RopeScaling::Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            attention_factor,
            mscale,
            mscale_all_dim,
            truncate,
        } = &self.scaling
        else {
            return 1.0;
        };
        // The place in the frequencies that turns so many times within the original context.
        let place = |turns: f64| {
            let wave = *original as f64 / (turns * 2.0 * std::f64::consts::PI);
            rotated as f64 * ln_f64(wave) / (2.0 * ln_f64(self.theta))
        };
        let (mut low, mut high) = (place(*beta_fast), place(*beta_slow));
        if *truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        for (index, frequency) in frequencies.iter_mut().enumerate() {
            let divided = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
            *frequency *= divided / factor + (1.0 - divided);
        }
        let magnitude = |weight: f64| if *factor <= 1.0 { 1.0 } else { 0.1 * weight * ln_f64(*factor) + 1.0 };
        attention_factor.unwrap_or_else(|| match (mscale, mscale_all_dim) {
            (Some(weight), Some(all)) => magnitude(*weight) / magnitude(*all),
            _ => magnitude(1.0),
        })
    }

    /// # Errors
    /// A sentence that names the value.
    pub(crate) fn validate(&self, head_dim: usize) -> Result<(), String> {
        let rotated = self.rotated(head_dim);
        if !(self.fraction > 0.0 && self.fraction <= 1.0) || rotated == 0 || !rotated.is_multiple_of(2) {
            return Err(format!(
                "`partial_rotary_factor` is {}: {rotated} of {head_dim} elements; an even number is needed",
                self.fraction
            ));
        }
        // NaN is refused as well.
        if !(self.theta > 1.0 && self.theta < 1e30) {
            return Err(format!("`rope_theta` is {}; a number above 1 is needed", self.theta));
        }
        let positive = |name: &str, value: f64| match value > 0.0 && value < 1e9 {
            true => Ok(()),
            false => Err(format!("the rope scaling's `{name}` is {value}; a positive number is needed")),
        };
        let original_of = |original: usize| positive("original_max_position_embeddings", original as f64);
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Dynamic { factor, original } => {
                if rotated <= 2 {
                    return Err(format!("dynamic rope scaling needs more than {rotated} rotated elements"));
                }
                positive("factor", *factor).and(original_of(*original))
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. } => positive("factor", *factor)
                .and(original_of(*original))
                .and(positive("beta_fast", *beta_fast))
                .and(positive("beta_slow", *beta_slow)),
            RopeScaling::Llama3 { factor, low, high, original } => {
                if high <= low {
                    return Err(format!(
                        "`high_freq_factor` ({high}) must be above `low_freq_factor` ({low})"
                    ));
                }
                positive("factor", *factor).and(original_of(*original)).and(positive("low_freq_factor", *low))
            }
            RopeScaling::LongRope { short, long, original, factor, .. } => {
                for (name, divisors) in [("short_factor", short), ("long_factor", long)] {
                    if divisors.len() != rotated / 2 {
                        let found = divisors.len();
                        return Err(format!("`{name}` has {found} numbers; {} are needed", rotated / 2));
                    }
                    divisors.iter().try_for_each(|divisor| positive(name, *divisor))?;
                }
                positive("factor", *factor).and(original_of(*original))
            }
        }
    }
}
