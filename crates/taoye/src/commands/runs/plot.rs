//! Curves of braille dots, two by four in a character. It must not know what they show.

/// Columns left of a curve, for its values.
const MARGIN: usize = 10;

/// A curve in `width` × `height` characters, its highest, middle and lowest value to the left; empty lines when there is
/// no finite value. `points` are (place, value) with ascending places, drawn over `places` from left to right.
pub fn curve(points: &[(f64, f64)], places: (f64, f64), width: usize, height: usize) -> Vec<String> {
    let (dots_across, dots_up) = (2 * width.saturating_sub(MARGIN), 4 * height);
    let columns = columns(points, places, dots_across);
    let values = || columns.iter().flatten().copied();
    let (low, high) = values()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high || dots_across == 0 {
        return vec![String::new(); height];
    }
    let spread = (high - low).max(1e-12);
    let level = |value: f64| ((value - low) / spread * (dots_up - 1) as f64).round() as usize;
    let mut cells = vec![vec![0_u32; dots_across / 2]; height];
    let mut last: Option<usize> = None;
    for (column, value) in columns.iter().enumerate() {
        let Some(value) = value else { continue };
        let level = level(*value);
        // What lies between the last dot and this one is filled, so that the curve holds together.
        let between = match last {
            Some(last) if last < level => last + 1..=level,
            Some(last) if last > level => level..=last - 1,
            _ => level..=level,
        };
        for level in between {
            let from_top = dots_up - 1 - level;
            cells[from_top / 4][column / 2] |= dot(column % 2, from_top % 4);
        }
        last = Some(level);
    }
    let lines = cells.iter().enumerate().map(|(line, cells)| {
        let label = match line {
            0 => label(high),
            line if line + 1 == height => label(low),
            line if line == height / 2 => label((low + high) / 2.0),
            _ => String::new(),
        };
        let dots: String = cells.iter().map(|dots| char::from_u32(0x2800 + dots).unwrap_or(' ')).collect();
        format!("{label:>8} │{dots}")
    });
    lines.collect()
}

/// Columns that a text takes on a terminal: two for what East Asian scripts write wide.
pub fn width(text: &str) -> usize {
    text.chars().map(|character| if is_wide(character) { 2 } else { 1 }).sum()
}

fn is_wide(character: char) -> bool {
    matches!(character, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}'
        | '\u{20000}'..='\u{3fffd}')
}

/// The mean value of each column of dots; none before the first point and after the last.
fn columns(points: &[(f64, f64)], (first, last): (f64, f64), count: usize) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0_u32); count];
    let spread = (last - first).max(1e-12);
    for &(place, value) in points.iter().filter(|point| point.1.is_finite()) {
        let column = ((place - first) / spread * count.saturating_sub(1) as f64).round();
        if let Some(sum) = sums.get_mut(column.max(0.0) as usize) {
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }
    bridged(sums.into_iter().map(|(sum, count)| (count > 0).then(|| sum / f64::from(count))).collect())
}

/// Columns between two with values get what lies on the straight line between these.
fn bridged(mut columns: Vec<Option<f64>>) -> Vec<Option<f64>> {
    let known: Vec<(usize, f64)> =
        columns.iter().enumerate().filter_map(|(column, value)| Some((column, (*value)?))).collect();
    for pair in known.windows(2) {
        let ((first, from), (last, to)) = (pair[0], pair[1]);
        for (steps, column) in columns[first..last].iter_mut().enumerate() {
            *column = Some(from + steps as f64 / (last - first) as f64 * (to - from));
        }
    }
    columns
}

/// The bit of a dot in its character (Unicode 16.0, "Braille Patterns"): the first six count down the left column and
/// then the right one, the last two lie below them.
fn dot(across: usize, down: usize) -> u32 {
    match down {
        3 => 0x40 << across,
        down => 1 << (down + 3 * across),
    }
}

fn label(value: f64) -> String {
    match value.abs() {
        size if size >= 1e4 || (size > 0.0 && size < 1e-3) => format!("{value:.1e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_from_corner_to_corner() {
        let falling: Vec<(f64, f64)> =
            (0..=7).map(|place| (f64::from(place), 8.0 - f64::from(place))).collect();
        let lines = curve(&falling, (0.0, 7.0), MARGIN + 4, 2);
        assert_eq!(lines, ["   8.000 │⠑⢄⠀⠀", "   1.000 │⠀⠀⠑⢄"]);
        let flat = curve(&[(0.0, 2.0), (1.0, 2.0)], (0.0, 3.0), MARGIN + 2, 1);
        assert_eq!(flat, ["   2.000 │⣀⠀"], "half of the way is drawn");
        let bridged = curve(&[(0.0, 8.0), (7.0, 1.0)], (0.0, 7.0), MARGIN + 4, 2);
        assert_eq!(bridged, lines, "what lies between two points is drawn");
        assert_eq!(curve(&[(0.0, f64::NAN)], (0.0, 1.0), 20, 2), ["", ""]);
        assert_eq!(curve(&falling, (0.0, 7.0), 3, 1), [""], "no room");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!((width("ab–"), width("陶冶 a")), (3, 6));
    }
}
