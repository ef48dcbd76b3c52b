//! How a product is divided among threads: a grid of rectangles of C, each with one owner. The division changes no bit
//! of the result, only the time.

use std::ops::Range;

/// What decides the division.
pub(super) struct Work {
    pub rows: usize,
    pub columns: usize,
    /// Rows of a full tile and columns of a panel.
    pub tile: (usize, usize),
    pub threads: usize,
    /// Whether each owner packs its columns of B (rather than finding them packed).
    pub packs_b: bool,
}

/// A grid of rectangles: `rows` × `columns` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub rows: usize,
    pub columns: usize,
}

impl Grid {
    /// The grid of least estimated time. All rectangles are taken to be of the largest one's size, and a few more of
    /// them than threads are worth a small loss, since they even out a disturbed thread.
    pub fn choose(work: &Work) -> Grid {
        let tiles = work.rows.div_ceil(work.tile.0).max(1);
        let panels = work.columns.div_ceil(work.tile.1).max(1);
        let mut best = (f64::INFINITY, Grid { rows: 1, columns: 1 });
        let rounds = if work.threads == 1 { 1..=1 } else { 1..=4 };
        for tasks in rounds.map(|round| round * work.threads) {
            for rows in (1..=tasks).filter(|rows| tasks.is_multiple_of(*rows)) {
                let grid = Grid { rows: rows.min(tiles), columns: (tasks / rows).min(panels) };
                let time = grid.time(work, tiles, panels);
                // A larger number of rectangles is tried later and wins within one part in a hundred.
                if time < best.0 * 1.01 {
                    best = (time.min(best.0), grid);
                }
            }
        }
        best.1
    }

    /// Number of rectangles.
    pub fn len(self) -> usize {
        self.rows * self.columns
    }

    /// Rectangle `index`: its rows (multiples of a tile apart) and columns (multiples of a panel apart).
    pub fn rectangle(self, index: usize, work: &Work) -> (Range<usize>, Range<usize>) {
        let (row, column) = (index / self.columns, index % self.columns);
        (
            share(work.rows, work.tile.0, row, self.rows),
            share(work.columns, work.tile.1, column, self.columns),
        )
    }

    /// Estimated processor cycles for each k of the busiest thread.
    fn time(self, work: &Work, tiles: usize, panels: usize) -> f64 {
        let (rows, columns) = (tiles.div_ceil(self.rows) as f64, panels.div_ceil(self.columns) as f64);
        let multiply = rows * columns * work.tile.0 as f64;
        let pack_b = if work.packs_b { columns * work.tile.1 as f64 * 0.4 } else { 0.0 };
        let pack_a = rows * work.tile.0 as f64 * 0.2;
        (multiply + pack_b + pack_a) * self.len().div_ceil(work.threads) as f64
    }
}

/// Part `index` of `parts` of `length`, in whole units of `unit` except at the end.
pub(super) fn share(length: usize, unit: usize, index: usize, parts: usize) -> Range<usize> {
    let units = length.div_ceil(unit);
    let start = units * index / parts * unit;
    let end = units * (index + 1) / parts * unit;
    start.min(length)..end.min(length)
}
