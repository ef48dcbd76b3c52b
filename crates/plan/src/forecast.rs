//! What compute a portfolio demands: organisations with their models today and planned, and the share that moves.
//!
//! A file (TOML) lists groups and chains; growth follows from parameters, data and how often is trained. It must not know
//! chips: demand is a ratio.

use serde::Deserialize;

/// The example that ships: the report's forecast for the end of 2024 and its chain of models.
pub const EXAMPLE: &str = include_str!("../data/portfolio-2024.toml");

/// What is wrong with a portfolio.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ForecastError {
    /// The file.
    pub place: String,
    /// What is wrong in it.
    pub message: String,
}

/// A portfolio.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portfolio {
    /// What it is.
    pub title: String,
    /// Where its numbers are from.
    #[serde(default)]
    pub source: String,
    /// A growth of demand that somebody states, in per cent.
    pub stated_growth_percent: Option<f64>,
    /// Its groups of organisations.
    #[serde(default)]
    pub group: Vec<Group>,
    /// Models that follow each other.
    #[serde(default)]
    pub chain: Vec<Link>,
}

/// Organisations that are alike.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many there are.
    pub organisations: f64,
    /// Parameters of their models today.
    pub parameters_today: f64,
    /// Parameters planned.
    pub parameters_planned: f64,
    /// The share of them that moves, least and most.
    pub share_that_moves: [f64; 2],
    /// How many times the tokens of today one that moves trains on.
    pub data_factor: f64,
    /// How many times as often it trains.
    pub frequency_factor: f64,
}

/// A model of a chain, as its source states it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The model.
    pub name: String,
    /// Parameters, where stated.
    pub parameters: Option<f64>,
    /// Servers of eight chips.
    pub servers: f64,
    /// 10¹⁵ operations a second of all servers, as stated.
    pub pflops: f64,
    /// Days, least and most.
    pub days: [f64; 2],
    /// Operations a second and chip that are reached, in 10¹², recomputation counted.
    pub tflops_per_chip: f64,
}

/// Growth of a portfolio's demand at one end of the shares that move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Demand after over demand before.
    pub factor: f64,
    /// By how many per cent it grows.
    pub percent: f64,
}

/// What a stated growth takes of those that move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Implied {
    /// The share that moves.
    pub share: f64,
    /// How many times its compute of today each that moves needs.
    pub compute_factor: f64,
    /// What data and frequency together must grow by, parameters taken away.
    pub data_and_frequency: f64,
}

/// A link of a chain beside the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The model.
    pub name: String,
    /// Chips.
    pub chips: f64,
    /// Chips over those of the link before.
    pub chips_factor: Option<f64>,
    /// Chips times days over those of the link before, by mean days.
    pub compute_factor: Option<f64>,
    /// Tokens that chips, days and speed pay for in a dense model of so many parameters, recomputation counted.
    pub tokens: Option<f64>,
}

impl Portfolio {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ForecastError`] with the place in the file.
    pub fn parse(text: &str, place: &str) -> Result<Portfolio, ForecastError> {
        let fault = |message: String| ForecastError { place: place.to_owned(), message };
        let portfolio: Portfolio = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
        for group in &portfolio.group {
            let above = [
                group.organisations,
                group.parameters_today,
                group.parameters_planned,
                group.data_factor,
                group.frequency_factor,
            ];
            if above.iter().any(|number| !number.is_finite() || *number <= 0.0) {
                return Err(fault(format!("{}: every number must be above zero", group.name)));
            }
            let [least, most] = group.share_that_moves;
            if !(0.0..=1.0).contains(&least) || !(least..=1.0).contains(&most) {
                return Err(fault(format!("{}: share_that_moves is [least, most], from 0 to 1", group.name)));
            }
        }
        for link in &portfolio.chain {
            if link.servers <= 0.0
                || link.days[0] <= 0.0
                || link.days[1] < link.days[0]
                || link.tflops_per_chip <= 0.0
            {
                return Err(fault(format!(
                    "{}: servers, days [least, most] and speed must be above zero",
                    link.name
                )));
            }
        }
        match portfolio.group.is_empty() && portfolio.chain.is_empty() {
            true => Err(fault("it has neither a [[group]] nor a [[chain]]".to_owned())),
            false => Ok(portfolio),
        }
    }

    /// Growth of the demand with the least (0) or the most (1) of the shares that move. Compute is in proportion to
    /// parameters · tokens · trainings (6 · N · D, Kaplan et al. 2020, section 2.1).
    pub fn growth(&self, end: usize) -> Option<Growth> {
        let (mut before, mut after) = (0.0, 0.0);
        for group in &self.group {
            let share = group.share_that_moves[end.min(1)];
            let today = group.organisations * group.parameters_today;
            before += today;
            after += today * (1.0 + share * (group.compute_factor() - 1.0));
        }
        (before > 0.0).then(|| Growth { factor: after / before, percent: 100.0 * (after / before - 1.0) })
    }

    /// What the stated growth takes, for portfolios of one group: 1 + share · (factor − 1) = stated.
    pub fn implied(&self, end: usize) -> Option<Implied> {
        let [group] = self.group.as_slice() else { return None };
        let share = group.share_that_moves[end.min(1)];
        let stated = 1.0 + self.stated_growth_percent? / 100.0;
        let compute_factor = 1.0 + (stated - 1.0) / share;
        let data_and_frequency = compute_factor * group.parameters_today / group.parameters_planned;
        Some(Implied { share, compute_factor, data_and_frequency })
    }

    /// The chain's links beside each other.
    pub fn steps(&self) -> Vec<Step> {
        let mean = |link: &Link| (link.days[0] + link.days[1]) / 2.0;
        let before = |index: usize| index.checked_sub(1).map(|index| &self.chain[index]);
        let step = |(index, link): (usize, &Link)| Step {
            name: link.name.clone(),
            chips: 8.0 * link.servers,
            chips_factor: before(index).map(|last| link.servers / last.servers),
            compute_factor: before(index).map(|last| link.servers * mean(link) / (last.servers * mean(last))),
            tokens: link.parameters.map(|parameters| {
                8.0 * link.servers * link.tflops_per_chip * 1e12 * mean(link) * 86_400.0 / (8.0 * parameters)
            }),
        };
        self.chain.iter().enumerate().map(step).collect()
    }
}

impl Group {
    /// How many times its compute of today one that moves needs.
    pub fn compute_factor(&self) -> f64 {
        self.parameters_planned / self.parameters_today * self.data_factor * self.frequency_factor
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_reports_growth_follows_from_its_assumptions() {
        let portfolio = Portfolio::parse(EXAMPLE, "example").unwrap();
        let (least, most) = (portfolio.implied(0).unwrap(), portfolio.implied(1).unwrap());
        assert!((least.compute_factor - 65.0).abs() < 1e-9 && (most.compute_factor - 41.0).abs() < 1e-9);
        assert!(
            (least.data_and_frequency - 6.5).abs() < 1e-9 && (most.data_and_frequency - 4.1).abs() < 1e-9
        );
        // With the example's factors the stated growth lies between the ends.
        let (low, high) = (portfolio.growth(0).unwrap().percent, portfolio.growth(1).unwrap().percent);
        assert!(low <= 320.0 && 320.0 <= high, "{low} {high}");
    }

    #[test]
    fn the_chain_is_the_reports() {
        let steps = Portfolio::parse(EXAMPLE, "example").unwrap().steps();
        assert_eq!(steps[0].chips, 1024.0);
        assert!((steps[1].chips_factor.unwrap() - 24.4).abs() < 0.05);
        assert!((steps[2].chips_factor.unwrap() - 10.0).abs() < 1e-9);
        assert!((steps[0].tokens.unwrap() / 300e9 - 1.0).abs() < 0.02);
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, part) in [
            ("share_that_moves = [0.05, 0.08]", "share_that_moves = [0.08, 0.05]", "share_that_moves"),
            ("organisations = 100", "organisations = 0", "above zero"),
            ("organisations", "organizations", "organizations"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let message = Portfolio::parse(&EXAMPLE.replace(from, to), "mine.toml").unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("mine.toml"), "{message}");
        }
        assert!(Portfolio::parse("title = \"x\"", "p").unwrap_err().to_string().contains("[[group]]"));
    }
}
