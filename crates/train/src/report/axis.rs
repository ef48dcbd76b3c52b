//! Axes with readable ticks, linear and logarithmic.

/// How values are laid along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Log,
}

/// An axis: its ends and its ticks.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    scale: Scale,
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis that holds all `values`, none of which may be infinite (nor ≤ 0 on a logarithmic axis).
    pub(super) fn around(values: impl Iterator<Item = f64>, scale: Scale, ticks_max: usize) -> Axis {
        let (mut low, mut high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        match scale {
            Scale::Linear => Axis::linear(low, high, ticks_max),
            Scale::Log => Axis::log(low, high, ticks_max),
        }
    }

    /// As [`Axis::around`], but its ends are those of the values.
    pub(super) fn tight(low: f64, high: f64, ticks_max: usize) -> Axis {
        let mut axis = Axis::linear(low, high, ticks_max);
        if high > low {
            (axis.low, axis.high) = (low, high);
            axis.ticks.retain(|tick| (low..=high).contains(tick));
        }
        axis
    }

    /// Where a value lies, 0 at the low end, 1 at the high one.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// The ticks' values and texts, ascending.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        let gaps = self.ticks.windows(2).map(|pair| pair[1] - pair[0]);
        let gap = gaps.fold(self.high - self.low, f64::min);
        let largest = self.ticks.iter().fold(0.0, |largest: f64, tick| largest.max(tick.abs()));
        self.ticks.iter().map(move |&tick| match self.scale {
            Scale::Linear => (tick, text(tick, gap, largest)),
            Scale::Log => (tick, text(tick, gap.min(tick), tick)),
        })
    }

    fn linear(low: f64, high: f64, ticks_max: usize) -> Axis {
        let spread = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
        let (low, high) = if high > low { (low, high) } else { (low - spread / 2.0, high + spread / 2.0) };
        let step = round_step(spread / ticks_max as f64);
        let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
        let ticks: Vec<f64> = (first..=last).map(|index| index as f64 * step).collect();
        Axis { low: first as f64 * step, high: last as f64 * step, scale: Scale::Linear, ticks }
    }

    fn log(low: f64, high: f64, ticks_max: usize) -> Axis {
        let (low, high) = if high > low { (low, high) } else { (low / 1.1, high * 1.1) };
        for mantissas in MANTISSAS {
            let ticks = log_ticks(low, high, mantissas);
            if (3..=ticks_max).contains(&ticks.len()) {
                return Axis { low, high, scale: Scale::Log, ticks };
            }
        }
        let ticks = match log_ticks(low, high, &[1.0]) {
            decades if decades.len() > ticks_max => {
                let stride = decades.len().div_ceil(ticks_max);
                decades.into_iter().step_by(stride).collect()
            }
            _ => Axis::linear(low, high, 3)
                .ticks
                .into_iter()
                .filter(|tick| (low..=high).contains(tick))
                .collect(),
        };
        Axis { low, high, scale: Scale::Log, ticks }
    }
}

/// Digits that ticks of a logarithmic axis may begin with, the closest ones first.
const MANTISSAS: [&[f64]; 5] = [
    &[1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0],
    &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
    &[1.0, 2.0, 5.0],
    &[1.0, 3.0],
    &[1.0],
];

/// The least of 1, 2, 2.5, 5 × 10ⁿ that is not below `step`.
fn round_step(step: f64) -> f64 {
    let unit = 10f64.powf(step.log10().floor());
    let candidates = [1.0, 2.0, 2.5, 5.0, 10.0];
    candidates
        .into_iter()
        .map(|mantissa| mantissa * unit)
        .find(|&rounded| rounded >= step * 0.999_999)
        .unwrap_or(step)
}

fn log_ticks(low: f64, high: f64, mantissas: &[f64]) -> Vec<f64> {
    let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let ticks =
        exponents.flat_map(|exponent| mantissas.iter().map(move |mantissa| mantissa * 10f64.powi(exponent)));
    ticks.filter(|tick| (low..=high).contains(tick)).collect()
}

/// A tick's text, exact to a hundredth of `gap`, in the unit that suits `size`: k, M or a power of ten.
fn text(tick: f64, gap: f64, size: f64) -> String {
    // The epsilon keeps 0.0001, whose logarithm may come out just below -4, in its own decade.
    let exponent = (size.log10() + 1e-9).floor();
    let (unit, suffix) = match size {
        _ if tick.abs() < gap * 1e-6 => return "0".into(),
        _ if size >= 1e6 => (1e6, "M".to_owned()),
        _ if size >= 1e4 => (1e3, "k".to_owned()),
        _ if size < 1e-3 => (10f64.powf(exponent), format!("e{exponent}")),
        _ => (1.0, String::new()),
    };
    let value = tick / unit;
    let digits = (0..12).map(|decimals| format!("{value:.decimals$}"));
    let exact =
        |digits: &String| digits.parse().is_ok_and(|read: f64| (read - value).abs() <= 0.01 * gap / unit);
    format!("{}{suffix}", digits.into_iter().find(exact).unwrap_or_else(|| value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<String> {
        axis.ticks().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_readable() {
        let cases: [(&[f64], Scale, &[&str]); 9] = [
            (&[0.0, 9.2], Scale::Linear, &["0", "2", "4", "6", "8", "10"]),
            (&[2.31, 2.38], Scale::Linear, &["2.3", "2.32", "2.34", "2.36", "2.38"]),
            (
                &[0.0, 0.0012],
                Scale::Linear,
                &["0", "0.0002", "0.0004", "0.0006", "0.0008", "0.001", "0.0012"],
            ),
            (&[5_000.0, 21_000.0], Scale::Linear, &["5k", "10k", "15k", "20k", "25k"]),
            (&[3.0, 3.0], Scale::Linear, &["2.85", "2.9", "2.95", "3", "3.05", "3.1", "3.15"]),
            (&[1.8, 9.2], Scale::Log, &["2", "3", "4", "5", "6", "8"]),
            (&[0.002, 30.0], Scale::Log, &["0.01", "0.1", "1", "10"]),
            (&[0.0, 3e-4], Scale::Linear, &["0", "0.5e-4", "1e-4", "1.5e-4", "2e-4", "2.5e-4", "3e-4"]),
            (&[1e-5, 1e-2], Scale::Log, &["1e-5", "1e-4", "0.001", "0.01"]),
        ];
        for (values, scale, expected) in cases {
            let axis = Axis::around(values.iter().copied(), scale, 6);
            assert_eq!(texts(&axis), expected, "{values:?} {scale:?}");
        }
    }

    #[test]
    fn every_axis_has_distinct_ticks_inside_it() {
        for low in [1e-7, 0.3, 1.0, 99.0, 1e5] {
            for ratio in [1.0, 1.000_1, 1.02, 1.7, 9.0, 250.0, 1e6] {
                for scale in [Scale::Linear, Scale::Log] {
                    let axis = Axis::around([low, low * ratio].into_iter(), scale, 6);
                    let texts = texts(&axis);
                    assert!((1..=8).contains(&texts.len()), "{low} × {ratio} {scale:?}: {texts:?}");
                    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
                    assert_eq!(distinct.len(), texts.len(), "{low} × {ratio} {scale:?}: {texts:?}");
                    for (tick, _) in axis.ticks() {
                        assert!(
                            (-1e-9..=1.0 + 1e-9).contains(&axis.place(tick)),
                            "{low} × {ratio} {scale:?}"
                        );
                    }
                    assert!(axis.place(low) >= -1e-9 && axis.place(low * ratio) <= 1.0 + 1e-9);
                }
            }
        }
    }

    #[test]
    fn no_values_still_make_an_axis() {
        assert!(Axis::around(std::iter::empty(), Scale::Log, 6).ticks().count() >= 1);
    }
}
