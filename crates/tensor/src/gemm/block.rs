//! In which order the part of a product that one thread owns is computed: blocks of columns, within them blocks of k,
//! within them groups of tiles. Must not know any data.

use super::split::share;
use super::tile::DEPTH_MAX;
use std::ops::Range;

/// The most columns of B that are packed at once.
const COLUMNS_MAX: usize = 512;
/// Floats of B that are packed at once: what fits a one-mebibyte second-level cache beside the rest.
pub(super) const B_LENGTH_MAX: usize = (512 << 10) / size_of::<f32>();
/// Tiles of A that are packed together where A is transposed: neighbouring tiles share cache lines, which would else
/// be fetched twice.
pub(super) const GROUP_MAX: usize = 4;

/// The blocks of a rectangle of C in order.
pub(super) struct Blocks {
    rows: Range<usize>,
    columns: Range<usize>,
    depth: usize,
    /// Rows of a full tile and columns of a panel.
    tile: (usize, usize),
    /// Tiles of a group.
    group: usize,
    column_block: usize,
    depth_block: usize,
}

impl Blocks {
    /// Of the rectangle (rows, columns), all of k < `depth`; `by_row` says that A is row-major.
    pub fn new(
        (rows, columns): (Range<usize>, Range<usize>),
        depth: usize,
        tile: (usize, usize),
        by_row: bool,
    ) -> Blocks {
        let group = if by_row { 1 } else { GROUP_MAX };
        Blocks { rows, columns, depth, tile, group, column_block: 0, depth_block: 0 }
    }
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let width = self.tile.1;
        let column_blocks = self.columns.len().div_ceil(COLUMNS_MAX);
        if self.column_block == column_blocks {
            return None;
        }
        let part = share(self.columns.len(), width, self.column_block, column_blocks);
        let depth_blocks = self.depth.div_ceil(B_LENGTH_MAX / part.len().next_multiple_of(width));
        let k = share(self.depth, 1, self.depth_block, depth_blocks);
        self.depth_block += 1;
        if self.depth_block == depth_blocks {
            (self.column_block, self.depth_block) = (self.column_block + 1, 0);
        }
        Some(Block {
            rows: self.rows.clone(),
            columns: self.columns.start + part.start..self.columns.start + part.end,
            tiles: self.rows.len().div_ceil(self.tile.0),
            pieces: k.len().div_ceil(DEPTH_MAX),
            group: self.group,
            k,
        })
    }
}

/// A rectangle of C and a block of k, and how they are cut: into tiles of rows, `group` of them packed together, and
/// into pieces of k.
pub(super) struct Block {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub k: Range<usize>,
    tiles: usize,
    pieces: usize,
    group: usize,
}

impl Block {
    /// Steps: for each group of tiles all pieces of k.
    pub fn steps(&self) -> usize {
        self.tiles.div_ceil(self.group) * self.pieces
    }

    /// Calls of the kernel with panels of `width` columns.
    pub fn calls(&self, width: usize) -> usize {
        self.tiles * self.pieces * self.columns.len().div_ceil(width)
    }

    /// Step `index`. Tiles and pieces are of even sizes: a last tile of few rows would wait for its own sums.
    pub fn step(&self, index: usize) -> Step {
        let first = index / self.pieces * self.group;
        let tiles = std::array::from_fn(|i| {
            if i >= self.group || first + i >= self.tiles {
                return 0..0;
            }
            let rows = share(self.rows.len(), 1, first + i, self.tiles);
            self.rows.start + rows.start..self.rows.start + rows.end
        });
        let k = share(self.k.len(), 1, index % self.pieces, self.pieces);
        Step { tiles, k: self.k.start + k.start..self.k.start + k.end }
    }
}

/// Tiles that follow each other and are packed together, and a piece of k.
pub(super) struct Step {
    /// Empty ones fill up the last group.
    tiles: [Range<usize>; GROUP_MAX],
    /// The values of k.
    pub k: Range<usize>,
}

impl Step {
    /// The rows of each tile.
    pub fn tiles(&self) -> &[Range<usize>] {
        &self.tiles[..self.tiles.iter().take_while(|tile| !tile.is_empty()).count()]
    }
    /// The rows of all tiles.
    pub fn rows(&self) -> Range<usize> {
        let tiles = self.tiles();
        tiles.first().map_or(0, |tile| tile.start)..tiles.last().map_or(0, |tile| tile.end)
    }
}
