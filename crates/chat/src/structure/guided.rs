//! Places within grammars, and grammars that many answers share: what one has found out about a grammar's lexer the next need not.
//! Knows neither schemas nor tokenizers.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{Constraint, Mask};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory, TokenParser};

/// Grammars that are kept for later answers, those used longest ago given up first.
const KEPT_MAX: usize = 8;

/// Bytes of a grammar's text beyond which it is made anew for each answer.
const TEXT_BYTES_MAX: usize = 128 << 10;

/// Bytes that a lexer may have come to; then later answers begin with a new one.
const LEXER_BYTES_MAX: usize = 16 << 20;

/// Grammars over one vocabulary.
pub(crate) struct Grammars {
    factory: Arc<ParserFactory>,
    kept: Mutex<VecDeque<Kept>>,
}

/// A grammar that was made before.
struct Kept {
    text: String,
    begin: TokenParser,
    shared: Arc<Shared>,
}

/// What answers with one grammar have in common, beside the lexer that their parsers share.
struct Shared {
    factory: Arc<ParserFactory>,
    grammar: TopLevelGrammar,
    /// Whether the lexer failed one of them, after which it fails all.
    spoiled: AtomicBool,
}

impl Kept {
    fn is_good(&self) -> bool {
        // A lexer that a panic left half-way panics when it is asked.
        let bytes = catch_unwind(AssertUnwindSafe(|| self.begin.parser.lexer_stats().num_bytes));
        !self.shared.spoiled.load(Ordering::Relaxed) && bytes.is_ok_and(|bytes| bytes <= LEXER_BYTES_MAX)
    }
}

impl Grammars {
    pub fn new(factory: ParserFactory) -> Self {
        Self { factory: Arc::new(factory), kept: Mutex::default() }
    }

    /// The beginning of a grammar.
    ///
    /// # Errors
    /// What in it is wrong or would not be enforced.
    pub fn begin(&self, grammar: TopLevelGrammar) -> Result<Guided, String> {
        let text = serde_json::to_string(&grammar).map_err(|error| error.to_string())?;
        if let Some((begin, shared)) = self.find(&text) {
            return Ok(Guided { matcher: Matcher::new(Ok(begin)), ids: Vec::new(), shared: Some(shared) });
        }
        let parser = self.factory.create_parser(grammar.clone()).map_err(|error| error.to_string())?;
        let mut matcher = Matcher::new(Ok(parser.clone()));
        // What is only warned of would not be enforced.
        let refused = matcher.get_error().or_else(|| matcher.grammar_warnings().into_iter().next());
        if let Some(reason) = refused {
            return Err(reason);
        }
        let shared = (text.len() <= TEXT_BYTES_MAX).then(|| {
            let spoiled = AtomicBool::new(false);
            let shared = Arc::new(Shared { factory: Arc::clone(&self.factory), grammar, spoiled });
            self.keep(Kept { text, begin: parser, shared: Arc::clone(&shared) });
            shared
        });
        Ok(Guided { matcher, ids: Vec::new(), shared })
    }

    fn find(&self, text: &str) -> Option<(TokenParser, Arc<Shared>)> {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = all.iter().position(|kept| kept.text == text)?;
        let kept = all.remove(place)?;
        if !kept.is_good() {
            return None;
        }
        let found = (kept.begin.clone(), Arc::clone(&kept.shared));
        all.push_back(kept);
        Some(found)
    }

    fn keep(&self, kept: Kept) {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back(kept);
        while all.len() > KEPT_MAX {
            all.pop_front();
        }
    }
}

/// A place within a grammar.
pub(crate) struct Guided {
    matcher: Matcher,
    /// What led there.
    ids: Vec<u32>,
    /// `None` where no other answer has the same lexer.
    shared: Option<Arc<Shared>>,
}

impl Guided {
    /// Does something there. Where it fails with a lexer that is shared, another answer may have led that one beyond its limits, so
    /// it is done again with a new one.
    fn with<T, E: fmt::Display>(&mut self, act: impl Fn(&mut Matcher) -> Result<T, E>) -> Result<T, String> {
        let error = match act(&mut self.matcher) {
            Ok(done) => return Ok(done),
            Err(error) => error.to_string(),
        };
        let Some(shared) = self.shared.take() else { return Err(error) };
        shared.spoiled.store(true, Ordering::Relaxed);
        self.matcher = Matcher::new(shared.factory.create_parser(shared.grammar.clone()));
        for &id in &self.ids {
            self.matcher.consume_token(id).map_err(|error| error.to_string())?;
        }
        act(&mut self.matcher).map_err(|error| error.to_string())
    }
}

impl Constraint for Guided {
    fn allowed(&mut self, mask: &mut Mask) -> Result<(), String> {
        let ids = self.with(Matcher::compute_mask_or_eos)?;
        mask.set(ids.as_slice());
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.with(|matcher| matcher.consume_token(id))?;
        self.ids.push(id);
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        let matcher = match &self.shared {
            Some(_) => self.matcher.clone(),
            None => self.matcher.deep_clone(),
        };
        Box::new(Guided { matcher, ids: self.ids.clone(), shared: self.shared.clone() })
    }
}

impl fmt::Debug for Guided {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Guided")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use llguidance::api::GrammarWithLexer;
    use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

    use super::*;

    const END: u32 = 256;

    /// Grammars whose ids are bytes.
    fn grammars() -> Grammars {
        let mut words: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"end"[..]].concat());
        let environment: TokEnv =
            Arc::new(ApproximateTokEnv::new(TokTrie::from(&TokRxInfo::new(257, END), &words)));
        let mut factory = ParserFactory::new_simple(&environment).unwrap();
        factory.quiet();
        Grammars::new(factory)
    }

    fn lark(text: &str) -> TopLevelGrammar {
        TopLevelGrammar { grammars: vec![GrammarWithLexer::from_lark(text.into())], max_tokens: None }
    }

    fn allowed(guided: &mut Guided) -> Result<Vec<u32>, String> {
        let mut mask = Mask::default();
        guided.allowed(&mut mask)?;
        Ok((0..=END).filter(|&id| mask.allows(id)).collect())
    }

    fn spell(guided: &mut Guided, text: &str) -> Result<(), String> {
        text.bytes().try_for_each(|byte| {
            assert!(allowed(guided)?.contains(&byte.into()), "{byte}");
            guided.accept(byte.into())
        })
    }

    #[test]
    fn answers_with_one_grammar_share_its_lexer_and_nothing_else() {
        let grammars = grammars();
        let sum = lark("start: /[0-9]{1,3}/ (\"+\" /[0-9]{1,3}/)*");
        let (mut first, mut second) = (grammars.begin(sum.clone()).unwrap(), grammars.begin(sum).unwrap());
        assert!(Arc::ptr_eq(first.shared.as_ref().unwrap(), second.shared.as_ref().unwrap()));
        spell(&mut first, "123").unwrap();
        spell(&mut second, "1").unwrap();
        let digits: Vec<u32> = (b'0'..=b'9').map(u32::from).collect();
        assert_eq!(allowed(&mut first).unwrap(), [u32::from(b'+'), END]);
        assert_eq!(allowed(&mut second).unwrap(), [&[u32::from(b'+')], &digits[..], &[END]].concat());
    }

    #[test]
    fn a_lexer_that_one_answer_led_beyond_its_limits_fails_no_other() {
        let grammars = grammars();
        // After `x` the lexer counts in so many ways that it gives up; after `a` it is simple.
        let counts = ["a", "b", "c", "d"]
            .map(|letter| format!("/(.|\\n)*{letter}(.|\\n){{400}}{letter}.*/"))
            .join(" & ");
        let grammar = lark(&format!("start: \"x\" HARD | \"a\" /[a-z]{{0,9}}/\nHARD: {counts}\n"));
        let (mut hard, mut easy) =
            (grammars.begin(grammar.clone()).unwrap(), grammars.begin(grammar.clone()).unwrap());
        spell(&mut easy, "abc").unwrap();
        let before = allowed(&mut easy).unwrap();
        let failed = spell(&mut hard, "x").and_then(|()| spell(&mut hard, &"abcd".repeat(1_000)));
        assert!(failed.is_err(), "the limits are reached");
        assert_eq!(allowed(&mut easy).unwrap(), before);
        spell(&mut easy, "de").unwrap();
        // Nor one that comes later.
        let mut later = grammars.begin(grammar).unwrap();
        spell(&mut later, "abcde").unwrap();
        assert_eq!(allowed(&mut later).unwrap(), allowed(&mut easy).unwrap());
    }

    #[test]
    fn few_grammars_are_kept() {
        let grammars = grammars();
        let same = |one: &Guided, other: &Guided| {
            Arc::ptr_eq(one.shared.as_ref().unwrap(), other.shared.as_ref().unwrap())
        };
        let number = |count: usize| lark(&format!("start: /[0-9]{{{count}}}/"));
        let first = grammars.begin(number(1)).unwrap();
        for count in 2..=KEPT_MAX {
            grammars.begin(number(count)).unwrap();
        }
        assert!(same(&grammars.begin(number(1)).unwrap(), &first), "used again, so it is not the oldest");
        (20..20 + KEPT_MAX).for_each(|count| _ = grammars.begin(number(count)).unwrap());
        assert!(!same(&grammars.begin(number(1)).unwrap(), &first));
        assert_eq!(grammars.kept.lock().unwrap().len(), KEPT_MAX);
        let long = lark(&format!("start: \"{}\"", "a".repeat(TEXT_BYTES_MAX)));
        assert!(grammars.begin(long).unwrap().shared.is_none());
    }
}
