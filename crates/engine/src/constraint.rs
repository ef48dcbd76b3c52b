//! What an answer may consist of, as sets of ids. Knows no text: whoever does implements [`Constraint`].

/// A set of ids, a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// Id `i` is bit `i mod 32` of word `i / 32`.
    words: Vec<u32>,
}

impl Mask {
    /// Makes this the set whose bits these are, the lowest id first; missing ones are 0.
    pub fn set(&mut self, words: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(words);
    }

    /// Whether an id is in the set.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Makes the logits of all other ids minus infinity, (vocabulary).
    pub(crate) fn forbid(&self, logits: &mut [f32]) {
        for (index, part) in logits.chunks_mut(32).enumerate() {
            match self.words.get(index).copied().unwrap_or(0) {
                u32::MAX => {}
                0 => part.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, logit) in part.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

/// Says at each position of an answer which ids may stand there.
pub trait Constraint: std::fmt::Debug + Send + Sync {
    /// Writes the ids that may come next to `mask`; among them those that end the answer, where it may end.
    ///
    /// # Errors
    /// Why nothing can come next.
    fn allowed(&mut self, mask: &mut Mask) -> Result<(), String>;

    /// Goes on by an id that was allowed.
    ///
    /// # Errors
    /// Why it cannot.
    fn accept(&mut self, id: u32) -> Result<(), String>;

    /// A second one in the same state.
    fn fork(&self) -> Box<dyn Constraint>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.fork()
    }
}
