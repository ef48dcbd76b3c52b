//! The memory behind the pages: keys and values of every layer, in the blocks that attention reads. Knows
//! neither who holds which page nor how ids are found.

use model::Config;
use tensor::AlignedBuffer;
use tensor::kernels::attention::{KvType, PageLayout, PagedBatch, PagedRows, attention_paged, store_rows};
use tensor::{Attention, Exec, Heads};

use crate::PagePool;

/// Keys and values of all pages. A page holds all layers, one after another, so that the memory taken follows
/// the pages that were ever used.
pub(crate) struct Cache {
    layout: PageLayout,
    /// (pages, layers, [`PageLayout::page_len`]); the system gives memory where it is first written.
    elements: AlignedBuffer,
}

impl Cache {
    /// Zeroed pages for all that the pool counts.
    pub fn new(config: &Config, pool: &PagePool, kv_type: KvType) -> Self {
        let layout = layout(config, pool.page_tokens(), kv_type);
        Self { layout, elements: AlignedBuffer::zeroed(pool.total() * layout.page_stride) }
    }

    /// Bytes of one page.
    pub fn page_bytes(config: &Config, page_tokens: usize, kv_type: KvType) -> usize {
        layout(config, page_tokens, kv_type).page_stride * size_of::<f32>()
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        self.elements.len() * size_of::<f32>()
    }

    /// How fused rows are divided.
    pub fn heads(&self) -> Heads {
        self.layout.heads
    }

    /// Copies all that page `from` holds to page `to`.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let stride = self.layout.page_stride;
        let begin = from as usize * stride;
        self.elements.copy_within(begin..begin + stride, to as usize * stride);
    }

    /// Writes the keys and values of fused rows `qkv` (rows, (heads + 2·kv_heads)·head_dim) into the pages of
    /// their sequences, then lets each row attend over what it sees of its sequence: `out` (rows,
    /// heads·head_dim).
    pub fn attend<'a>(
        &'a mut self,
        exec: Exec<'_>,
        (layer, attention): (usize, Attention),
        (qkv, out): (&'a [f32], &mut [f32]),
        (sequences, sequence): (usize, &'a (dyn Fn(usize) -> PagedRows<'a> + Sync)),
    ) {
        let layout = self.layout;
        let layer = layer * layout.page_len()..;
        store_rows(exec, layout, &mut self.elements[layer.clone()], qkv, (sequences, sequence));
        let batch = PagedBatch { qkv, layout, attention, pages: &self.elements[layer], sequences, sequence };
        attention_paged(exec, batch, out);
    }
}

fn layout(config: &Config, page_tokens: usize, kv_type: KvType) -> PageLayout {
    let mut layout = PageLayout::new(config.attention_heads(), page_tokens).with_type(kv_type);
    layout.page_stride = config.layers * layout.page_len();
    layout
}
