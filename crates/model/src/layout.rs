//! Where each parameter lies in the flat buffer, under its Hugging Face name.
//!
//! Matrices that are applied to the same input lie one after the other (q, k, v; gate, up), so that
//! each group is also one [`Weight`]. It must not know what the numbers are.

use crate::Config;
use tensor::{Device, Operation, Phase, QkNorm, Weight, Work};

/// A named parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in `model.safetensors`.
    pub name: String,
    /// Its place in the flat buffer; `rows` is 1 for a vector.
    pub weight: Weight,
    /// What it does, which decides how it is initialised and optimised.
    pub role: Role,
}

/// What a parameter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The token embedding table (with tied embeddings the output projection, too).
    Embedding,
    /// A matrix inside a layer.
    Hidden,
    /// A matrix inside a layer whose product is added to the residual stream.
    Residual,
    /// The untied output projection.
    Head,
    /// A norm's gain.
    Gain,
    /// A bias.
    Bias,
}

impl Entry {
    /// The shape in `model.safetensors`: one axis for gains and biases.
    pub fn shape(&self) -> Vec<usize> {
        match self.role {
            Role::Gain | Role::Bias => vec![self.weight.cols],
            _ => vec![self.weight.rows, self.weight.cols],
        }
    }
}

/// All parameters of a decoder.
#[derive(Clone, Debug)]
pub struct Layout {
    entries: Vec<Entry>,
    len: usize,
    pub(crate) embedding: Weight,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: Weight,
    pub(crate) head: Weight,
}

/// The weights of one layer, matrices with the same input fused.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attention_norm: Weight,
    pub(crate) qkv: Weight,
    pub(crate) qkv_bias: Option<Weight>,
    pub(crate) qk_norm: Option<QkNorm>,
    pub(crate) output: Weight,
    pub(crate) output_bias: Option<Weight>,
    pub(crate) mlp_norm: Weight,
    pub(crate) gate_up: Weight,
    pub(crate) gate_up_bias: Option<Weight>,
    pub(crate) down: Weight,
    pub(crate) down_bias: Option<Weight>,
}

impl Layout {
    /// The layout of a decoder's parameters.
    pub fn new(config: &Config) -> Layout {
        let mut builder = Builder { entries: Vec::new(), len: 0 };
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let embedding = builder.matrix("model.embed_tokens.weight", Role::Embedding, vocab, width);
        let layers = (0..config.layers).map(|index| builder.layer(config, index)).collect();
        let final_norm = builder.vector("model.norm.weight", Role::Gain, width);
        let head = match config.tie_embeddings {
            true => embedding,
            false => builder.matrix("lm_head.weight", Role::Head, vocab, width),
        };
        let Builder { entries, len } = builder;
        Layout { entries, len, embedding, layers, final_norm, head }
    }

    /// The parameters in the order of their offsets.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The parameter of a name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Elements of the flat buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Parameters that take part in a matrix product for each token: all but the input embedding
    /// table; a tied table is counted, since the output projection uses it.
    pub fn matmul_parameter_count(&self) -> usize {
        self.len - if self.lookup().is_some() { 0 } else { self.embedding.len() }
    }

    /// Elements of the gradient buffer: one for each parameter and, with tied embeddings, a second table
    /// apart for the gradient of the embedding rows. It is added to the first by
    /// [`Layout::finish_gradients`] once the whole batch is through, so that each of the two gradients is
    /// one chain of sums however the batch is cut.
    pub fn gradient_len(&self) -> usize {
        self.len + self.lookup().map_or(0, |lookup| lookup.len())
    }

    /// Where the gradient of the embedding rows goes when it has a place apart.
    pub fn lookup(&self) -> Option<Weight> {
        (self.head == self.embedding).then_some(Weight { offset: self.len, ..self.embedding })
    }

    /// Completes the gradients of a whole batch; the first [`Layout::len`] elements are then those of the
    /// parameters.
    pub fn finish_gradients(&self, device: &Device, gradients: &mut [f32]) {
        let Some(lookup) = self.lookup() else { return };
        let (parameters, rows) = gradients.split_at_mut(self.len);
        let table = self.embedding.of_mut(parameters);
        let work = || Work::floats(3 * lookup.len());
        let _timer = device.profile().time(Phase::Update, Operation::Gradients, work);
        tensor::kernels::add_into(device.exec(), &rows[..lookup.len()], table);
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The embedding table, (vocab, width).
    pub fn embedding(&self) -> Weight {
        self.embedding
    }

    /// The output projection, (vocab, width); the embedding table when they are tied.
    pub fn head(&self) -> Weight {
        self.head
    }

    /// Every matrix that [`tensor::Ops::linear`] is called with, and the output projection: what an
    /// engine packs once.
    pub fn matrices(&self) -> Vec<Weight> {
        let layers =
            self.layers.iter().flat_map(|layer| [layer.qkv, layer.output, layer.gate_up, layer.down]);
        layers.chain([self.head]).collect()
    }
}

struct Builder {
    entries: Vec<Entry>,
    len: usize,
}

impl Builder {
    fn layer(&mut self, config: &Config, index: usize) -> LayerWeights {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let (width, head_dim) = (config.hidden_size, config.head_dim);
        let (q, kv, ffn) = (config.heads * head_dim, config.kv_heads * head_dim, config.intermediate_size);
        let attention = |part: &str| name(&format!("self_attn.{part}"));
        let mlp = |part: &str| name(&format!("mlp.{part}"));

        let attention_norm = self.vector(&name("input_layernorm.weight"), Role::Gain, width);
        let parts =
            [("q_proj", q), ("k_proj", kv), ("v_proj", kv)].map(|(part, rows)| (attention(part), rows));
        let (qkv, qkv_bias) = self.fused(&parts, width, config.qkv_bias);
        let qk_norm = config.qk_norm.then(|| QkNorm {
            query: self.vector(&attention("q_norm.weight"), Role::Gain, head_dim),
            key: self.vector(&attention("k_norm.weight"), Role::Gain, head_dim),
            eps: config.rms_norm_eps,
        });
        let (output, output_bias) = self.residual(&attention("o_proj"), width, q, config.output_bias);
        let mlp_norm = self.vector(&name("post_attention_layernorm.weight"), Role::Gain, width);
        let parts = [(mlp("gate_proj"), ffn), (mlp("up_proj"), ffn)];
        let (gate_up, gate_up_bias) = self.fused(&parts, width, config.mlp_bias);
        let (down, down_bias) = self.residual(&mlp("down_proj"), width, ffn, config.mlp_bias);
        LayerWeights {
            attention_norm,
            qkv,
            qkv_bias,
            qk_norm,
            output,
            output_bias,
            mlp_norm,
            gate_up,
            gate_up_bias,
            down,
            down_bias,
        }
    }

    /// Matrices of one input, one after the other, then their biases likewise.
    fn fused(&mut self, parts: &[(String, usize)], cols: usize, bias: bool) -> (Weight, Option<Weight>) {
        let rows = parts.iter().map(|part| part.1).sum();
        let matrix = Weight { offset: self.len, rows, cols };
        for (name, rows) in parts {
            self.matrix(&format!("{name}.weight"), Role::Hidden, *rows, cols);
        }
        let biases = Weight { offset: self.len, rows: 1, cols: rows };
        if !bias {
            return (matrix, None);
        }
        for (name, rows) in parts {
            self.vector(&format!("{name}.bias"), Role::Bias, *rows);
        }
        (matrix, Some(biases))
    }

    fn residual(&mut self, name: &str, rows: usize, cols: usize, bias: bool) -> (Weight, Option<Weight>) {
        let matrix = self.matrix(&format!("{name}.weight"), Role::Residual, rows, cols);
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), Role::Bias, rows));
        (matrix, bias)
    }

    fn vector(&mut self, name: &str, role: Role, cols: usize) -> Weight {
        self.matrix(name, role, 1, cols)
    }

    fn matrix(&mut self, name: &str, role: Role, rows: usize, cols: usize) -> Weight {
        let weight = Weight { offset: self.len, rows, cols };
        self.entries.push(Entry { name: name.to_owned(), weight, role });
        self.len += weight.len();
        weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_tile_the_flat_buffer() {
        let mut config = Config::llama(100, 32, 3, 4);
        config.qkv_bias = true;
        config.output_bias = true;
        config.qk_norm = true;
        let layout = Layout::new(&config);
        let mut next = 0;
        for entry in layout.entries() {
            assert_eq!(entry.weight.offset, next, "{}", entry.name);
            next += entry.weight.len();
        }
        assert_eq!(next, layout.len());
    }

    #[test]
    fn fused_weights_cover_their_parts() {
        let layout = Layout::new(&Config::llama(100, 32, 1, 4));
        let parts =
            ["q_proj", "k_proj", "v_proj"].map(|part| format!("model.layers.0.self_attn.{part}.weight"));
        let total: usize = parts.iter().filter_map(|name| layout.find(name)).map(|e| e.weight.len()).sum();
        assert_eq!(layout.layers[0].qkv.len(), total);
        assert_eq!(Some(layout.layers[0].qkv.offset), layout.find(&parts[0]).map(|e| e.weight.offset));
    }
}
