//! Searches for the scales with which groups of numbers lose least: weighted least squares over rounded levels.
//! Must not know how blocks are packed.
//!
//! For given levels the best scale is a quotient of two sums, and for a given scale the best levels are the nearest
//! ones; what is left to search is where to start. That is one dimension, so a row of starts is tried and the best one
//! refined. Everything here is inlined into its caller, which is compiled once for each width of vectors; sums run in
//! `LANES` fixed lanes, so that all of them give the same bits.

use super::super::float::{f16_to_f32, f32_to_f16};

/// Lanes of every sum.
const LANES: usize = 8;
/// Below this a value counts as zero: no scale of a block can hold it.
const ZERO: f32 = 1e-12;
/// How often found levels and scales are improved in turn.
const ROUNDS: usize = 2;

/// Numbers that share a scale, and how much the square of an error at each of them counts. Their number is a multiple
/// of `LANES`.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    pub values: &'a [f32],
    pub weights: &'a [f32],
}

impl<'a> Group<'a> {
    #[inline(always)]
    pub fn part(self, index: usize, length: usize) -> Group<'a> {
        let range = index * length..(index + 1) * length;
        Group { values: &self.values[range.clone()], weights: &self.weights[range] }
    }

    /// For each lane's values `(x, w)` adds what `terms` gives to `K` sums.
    #[inline(always)]
    fn sums<const K: usize>(self, terms: impl Fn(f32, f32) -> [f32; K]) -> [f32; K] {
        let mut lanes = [[0.0; LANES]; K];
        let (values, weights) = (self.values.as_chunks::<LANES>().0, self.weights.as_chunks::<LANES>().0);
        for (values, weights) in values.iter().zip(weights) {
            for lane in 0..LANES {
                let terms = terms(values[lane], weights[lane]);
                for k in 0..K {
                    lanes[k][lane] += terms[k];
                }
            }
        }
        lanes.map(|l| ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])))
    }

    /// The value of largest magnitude, with its sign.
    #[inline(always)]
    pub fn extreme(self) -> f32 {
        let (low, high) = self.range();
        if -low > high { low } else { high }
    }

    #[inline(always)]
    fn range(self) -> (f32, f32) {
        let fold = |start: f32, better: fn(f32, f32) -> f32| self.values.iter().copied().fold(start, better);
        (fold(f32::INFINITY, f32::min), fold(f32::NEG_INFINITY, f32::max))
    }
}

/// What a value divided by its scale can become.
pub trait Levels: Copy {
    /// The nearest level.
    fn nearest(self, value: f32) -> f32;
    /// The lowest and the highest level.
    fn ends(self) -> (f32, f32);
}

/// All integers from the first to the second.
#[derive(Clone, Copy)]
pub struct Integers(pub f32, pub f32);

impl Levels for Integers {
    #[inline(always)]
    fn nearest(self, value: f32) -> f32 {
        round(value.max(self.0).min(self.1))
    }

    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (self.0, self.1)
    }
}

/// The nearest integer, ties to even, of a number below 2²² in magnitude: the sum has no place for a fraction.
#[inline(always)]
pub fn round(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The nearest number that an IEEE half holds, at most its largest.
#[inline(always)]
pub fn through_half(value: f32) -> f32 {
    f16_to_f32(f32_to_f16(value.clamp(-65_504.0, 65_504.0)))
}

/// 1/scale; 0 for 0, so that everything becomes level 0.
#[inline(always)]
pub fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The scale s with the least Σ w (x − s · level)²; `starts` numbers around each end of the levels are tried for the
/// value of largest magnitude to become.
#[inline(always)]
pub fn best_scale(group: Group<'_>, levels: impl Levels, starts: &[f32]) -> f32 {
    let extreme = group.extreme();
    if extreme.abs() < ZERO {
        return 0.0;
    }
    let (mut best, mut best_gain) = (0.0, 0.0);
    let (low, high) = levels.ends();
    for &start in starts {
        for inverse in [(low - start) / extreme, (high + start) / extreme] {
            let (scale, gain) = fit_scale(group, levels, inverse);
            if gain > best_gain {
                (best, best_gain) = (scale, gain);
            }
        }
    }
    for _ in 0..ROUNDS {
        let (scale, gain) = fit_scale(group, levels, inverse(best));
        if gain <= best_gain {
            break;
        }
        (best, best_gain) = (scale, gain);
    }
    best
}

/// The best scale for the levels nearest to x · `inverse`, and by how much it lowers the error: (Σ w x q)² / Σ w q².
#[inline(always)]
fn fit_scale(group: Group<'_>, levels: impl Levels, inverse: f32) -> (f32, f32) {
    let [product, square] = scale_sums(group, levels, inverse);
    if square > 0.0 { (product / square, product * product / square) } else { (0.0, 0.0) }
}

/// Σ w x q and Σ w q², q the level nearest to x · `inverse`.
#[inline(always)]
pub fn scale_sums(group: Group<'_>, levels: impl Levels, inverse: f32) -> [f32; 2] {
    group.sums(|x, w| {
        let q = levels.nearest(x * inverse);
        [w * x * q, w * q * q]
    })
}

/// Σ w (x − scale · level)² with the nearest levels.
#[inline(always)]
pub fn scale_error(group: Group<'_>, levels: impl Levels, scale: f32) -> f32 {
    let inverse = inverse(scale);
    let [error] = group.sums(|x, w| {
        let left = x - scale * levels.nearest(x * inverse);
        [w * left * left]
    });
    error
}

/// The scale s and offset m with the least Σ w (x − s · q − m)², q in 0..=`highest`, and m at most `offset_max`.
#[inline(always)]
pub fn best_line(group: Group<'_>, highest: f32, offset_max: f32, starts: &[f32]) -> (f32, f32) {
    let (low, high) = group.range();
    let low = low.min(offset_max);
    let width = high - low;
    if width < ZERO {
        return (0.0, low);
    }
    let moments = group.sums(|x, w| [w, w * x, w * x * x]);
    let (mut best, mut least) = ((width / highest, low), f32::INFINITY);
    for &start in starts {
        let (line, error) = fit_line(group, moments, (highest, offset_max), (width / (highest + start), low));
        if error < least {
            (best, least) = (line, error);
        }
    }
    let (line, error) = fit_line(group, moments, (highest, offset_max), best);
    if error < least { line } else { best }
}

/// The best line for the levels nearest under the line `from`, and its error; `moments` are Σ w, Σ w x and Σ w x².
#[inline(always)]
fn fit_line(
    group: Group<'_>,
    moments: [f32; 3],
    (highest, offset_max): (f32, f32),
    from: (f32, f32),
) -> ((f32, f32), f32) {
    let inverse = inverse(from.0);
    let [q1, q2, xq] = group.sums(|x, w| {
        let q = Integers(0.0, highest).nearest((x - from.1) * inverse);
        [w * q, w * q * q, w * x * q]
    });
    let [weight, sum, square] = moments;
    let determinant = weight * q2 - q1 * q1;
    let (mut s, mut m) = ((weight * xq - sum * q1) / determinant, (q2 * sum - q1 * xq) / determinant);
    if m > offset_max {
        (s, m) = (xq / q2 - offset_max * q1 / q2, offset_max);
    }
    let error = square - 2.0 * (s * xq + m * sum) + s * s * q2 + 2.0 * s * m * q1 + m * m * weight;
    // A determinant of zero gives no finite line.
    if s > 0.0 && error.is_finite() { ((s, m), error) } else { (from, f32::INFINITY) }
}

/// Σ w (x − scale · q − offset)², q in 0..=`highest` the nearest.
#[inline(always)]
pub fn line_error(group: Group<'_>, highest: f32, (scale, offset): (f32, f32)) -> f32 {
    let inverse = inverse(scale);
    let [error] = group.sums(|x, w| {
        let left = (x - offset) - scale * Integers(0.0, highest).nearest((x - offset) * inverse);
        [w * left * left]
    });
    error
}

/// Scales of the groups of a block, themselves integers times one half-precision scale.
#[derive(Clone, Copy)]
pub struct Scaled<const GROUPS: usize> {
    pub scale: f32,
    pub factors: [f32; GROUPS],
}

/// Finds both, for levels that are multiplied by the scale alone; `factors` is their range.
#[inline(always)]
pub fn best_scaled<const GROUPS: usize>(
    block: Group<'_>,
    levels: impl Levels,
    factors: Integers,
    starts: &[f32],
) -> Scaled<GROUPS> {
    let length = block.values.len() / GROUPS;
    let mut scales = [0.0f32; GROUPS];
    for (index, scale) in scales.iter_mut().enumerate() {
        *scale = best_scale(block.part(index, length), levels, starts);
    }
    let largest = scales.iter().copied().fold(0.0f32, |a, b| if b.abs() > a.abs() { b } else { a });
    let mut scale = through_half(largest / factors.0);
    let mut found = Scaled { scale: 0.0, factors: [0.0; GROUPS] };
    let mut least = f32::INFINITY;
    let mut ideal = scales.map(|s| s * inverse(scale));
    for _ in 0..=ROUNDS {
        let (mut total, mut product, mut square) = (0.0, 0.0, 0.0);
        let mut chosen = [0.0; GROUPS];
        for index in 0..GROUPS {
            let group = block.part(index, length);
            let (factor, error) = best_factor(group, levels, factors, (scale, ideal[index]));
            let [p, s] = scale_sums(group, levels, inverse(scale * factor));
            product += factor * p;
            square += factor * factor * s;
            total += error;
            chosen[index] = factor;
        }
        if total < least {
            least = total;
            found = Scaled { scale, factors: chosen };
        }
        let next = through_half(product * inverse(square));
        if next == scale {
            break;
        }
        scale = next;
        ideal = chosen;
    }
    found
}

/// The factor next to `ideal` whose product with the scale loses least, and the loss.
#[inline(always)]
fn best_factor(
    group: Group<'_>,
    levels: impl Levels,
    factors: Integers,
    (scale, ideal): (f32, f32),
) -> (f32, f32) {
    let middle = factors.nearest(ideal);
    let mut best = (middle, scale_error(group, levels, scale * middle));
    for factor in [middle - 1.0, middle + 1.0] {
        if factors.0 <= factor && factor <= factors.1 {
            let error = scale_error(group, levels, scale * factor);
            if error < best.1 {
                best = (factor, error);
            }
        }
    }
    best
}

/// Scales and minima of the groups of a block: integers times two half-precision scales. An element is
/// scale · factor · q − minimum · floor.
#[derive(Clone, Copy)]
pub struct Lined<const GROUPS: usize> {
    pub scale: f32,
    pub minimum: f32,
    pub factors: [f32; GROUPS],
    pub floors: [f32; GROUPS],
}

/// Finds all of them for q in 0..=`highest` and factors and floors in 0..=`factor_max`.
#[inline(always)]
pub fn best_lined<const GROUPS: usize>(
    block: Group<'_>,
    highest: f32,
    factor_max: f32,
    starts: &[f32],
) -> Lined<GROUPS> {
    let length = block.values.len() / GROUPS;
    let (mut scales, mut minima) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
    for index in 0..GROUPS {
        let (scale, offset) = best_line(block.part(index, length), highest, 0.0, starts);
        (scales[index], minima[index]) = (scale, -offset);
    }
    let step = |of: &[f32; GROUPS]| through_half(of.iter().copied().fold(0.0, f32::max) / factor_max);
    let mut now = Lined { scale: step(&scales), minimum: step(&minima), factors: scales, floors: minima };
    let whole = Integers(0.0, factor_max);
    now.factors = scales.map(|s| whole.nearest(s * inverse(now.scale)));
    now.floors = minima.map(|m| whole.nearest(m * inverse(now.minimum)));
    let (mut found, mut least) = (now, f32::INFINITY);
    for _ in 0..=ROUNDS {
        let total = improve_factors(block, highest, whole, &mut now);
        if total < least {
            (found, least) = (now, total);
        }
        let (scale, minimum) = best_steps(block, highest, &now);
        if (scale, minimum) == (now.scale, now.minimum) || !(scale > 0.0 && minimum >= 0.0) {
            break;
        }
        (now.scale, now.minimum) = (scale, minimum);
    }
    found
}

/// Replaces each group's factor and floor by the best of their neighbours; the total error.
#[inline(always)]
fn improve_factors<const GROUPS: usize>(
    block: Group<'_>,
    highest: f32,
    whole: Integers,
    now: &mut Lined<GROUPS>,
) -> f32 {
    let length = block.values.len() / GROUPS;
    let mut total = 0.0;
    for index in 0..GROUPS {
        let group = block.part(index, length);
        let (factor, floor) = (now.factors[index], now.floors[index]);
        let error_of = |factor: f32, floor: f32| {
            line_error(group, highest, (now.scale * factor, -(now.minimum * floor)))
        };
        let mut least = error_of(factor, floor);
        for (up, right) in [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)] {
            let (factor, floor) = (factor + up as f32, floor + right as f32);
            let inside = |n: f32| whole.0 <= n && n <= whole.1;
            if inside(factor) && inside(floor) {
                let error = error_of(factor, floor);
                if error < least {
                    least = error;
                    (now.factors[index], now.floors[index]) = (factor, floor);
                }
            }
        }
        total += least;
    }
    total
}

/// The two steps that fit the block's levels best, given factors and floors; rounded to halves.
#[inline(always)]
fn best_steps<const GROUPS: usize>(block: Group<'_>, highest: f32, now: &Lined<GROUPS>) -> (f32, f32) {
    let length = block.values.len() / GROUPS;
    let [mut aa, mut ab, mut bb, mut xa, mut xb] = [0.0f64; 5];
    for index in 0..GROUPS {
        let (factor, floor) = (now.factors[index], now.floors[index]);
        let offset = -(now.minimum * floor);
        let inverse = inverse(now.scale * factor);
        let sums = block.part(index, length).sums(|x, w| {
            let q = Integers(0.0, highest).nearest((x - offset) * inverse);
            [w * q * q, w * q, w, w * x * q, w * x]
        });
        let [q2, q1, q0, xq, x] = sums.map(f64::from);
        let (factor, floor) = (f64::from(factor), f64::from(-floor));
        aa += factor * factor * q2;
        ab += factor * floor * q1;
        bb += floor * floor * q0;
        xa += factor * xq;
        xb += floor * x;
    }
    let determinant = aa * bb - ab * ab;
    if determinant > 1e-9 * aa * bb {
        let scale = (xa * bb - xb * ab) / determinant;
        let minimum = (xb * aa - xa * ab) / determinant;
        (through_half(scale as f32), through_half(minimum as f32))
    } else {
        // No floors: the scale alone.
        (through_half((xa / aa) as f32), now.minimum)
    }
}
