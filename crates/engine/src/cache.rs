//! The memory behind the pages: keys and values of every layer, in the blocks that attention reads. Knows neither
//! who holds which page nor how ids are found.
//!
//! A page holds for each layer, for each key/value head, for each block of [`KEY_BLOCK`] tokens the keys transposed,
//! (head_dim, KEY_BLOCK), and after them the values, (KEY_BLOCK, head_dim).

use model::Config;
use tensor::{Heads, KEY_BLOCK};

use crate::PagePool;

/// Keys and values of all pages.
pub(crate) struct Cache {
    shape: Shape,
    /// (pages, layers, kv_heads, blocks, [keys | values]); the system gives memory where it is first written.
    elements: Vec<f32>,
}

/// Sizes of the cache's axes.
#[derive(Clone, Copy, Debug)]
struct Shape {
    layers: usize,
    heads: Heads,
    page_blocks: usize,
}

impl Shape {
    fn new(config: &Config, page_tokens: usize) -> Self {
        Self { layers: config.layers, heads: config.attention_heads(), page_blocks: page_tokens / KEY_BLOCK }
    }

    /// Elements of one head's keys, or values, in one block.
    fn block_len(self) -> usize {
        self.heads.head_dim * KEY_BLOCK
    }

    fn page_len(self) -> usize {
        self.layers * self.heads.kv_heads * self.page_blocks * 2 * self.block_len()
    }
}

/// The blocks of one sequence in one layer.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    cache: &'a Cache,
    layer: usize,
    pages: &'a [u32],
}

impl Cache {
    /// Zeroed pages for all that the pool counts.
    pub fn new(config: &Config, pool: &PagePool) -> Self {
        let shape = Shape::new(config, pool.page_tokens());
        Self { shape, elements: vec![0.0; pool.total() * shape.page_len()] }
    }

    /// Bytes of one page.
    pub fn page_bytes(config: &Config, page_tokens: usize) -> usize {
        Shape::new(config, page_tokens).page_len() * size_of::<f32>()
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        self.elements.len() * size_of::<f32>()
    }

    /// Where the keys of a block begin; its values follow.
    fn block_start(&self, layer: usize, kv_head: usize, pages: &[u32], block: usize) -> usize {
        let Shape { layers, heads, page_blocks } = self.shape;
        let page = pages[block / page_blocks] as usize;
        let index = ((page * layers + layer) * heads.kv_heads + kv_head) * page_blocks + block % page_blocks;
        index * 2 * self.shape.block_len()
    }

    /// Writes the keys and values of fused rows `qkv` (rows, (heads + 2·kv_heads)·head_dim), which stand at `position`
    /// and after it in the sequence that holds `pages`.
    pub fn write(&mut self, layer: usize, pages: &[u32], position: usize, qkv: &[f32]) {
        let Heads { heads, kv_heads, head_dim } = self.shape.heads;
        for (row, fused) in qkv.chunks_exact(self.shape.heads.fused_width()).enumerate() {
            let (block, slot) = ((position + row) / KEY_BLOCK, (position + row) % KEY_BLOCK);
            let (keys, values) = fused[heads * head_dim..].split_at(kv_heads * head_dim);
            let keys_and_values = keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim));
            for (kv_head, (key, value)) in keys_and_values.enumerate() {
                let start = self.block_start(layer, kv_head, pages, block);
                let (key_block, value_block) =
                    self.elements[start..start + 2 * head_dim * KEY_BLOCK].split_at_mut(head_dim * KEY_BLOCK);
                for (dimension, &element) in key.iter().enumerate() {
                    key_block[dimension * KEY_BLOCK + slot] = element;
                }
                value_block[slot * head_dim..(slot + 1) * head_dim].copy_from_slice(value);
            }
        }
    }

    /// The blocks of the sequence that holds `pages`, in one layer.
    pub fn blocks<'a>(&'a self, layer: usize, pages: &'a [u32]) -> Blocks<'a> {
        Blocks { cache: self, layer, pages }
    }
}

impl<'a> Blocks<'a> {
    /// Keys (head_dim, KEY_BLOCK) and values (KEY_BLOCK, head_dim) of one head in one block.
    pub fn of(&self, kv_head: usize, block: usize) -> (&'a [f32], &'a [f32]) {
        let length = self.cache.shape.block_len();
        let start = self.cache.block_start(self.layer, kv_head, self.pages, block);
        self.cache.elements[start..start + 2 * length].split_at(length)
    }
}
