//! Where each parameter lies in the flat buffer, under its Hugging Face name.
//!
//! Matrices that are applied to the same input lie one after the other (q, k, v; gate, up), so that
//! each group is also one [`Weight`]; a norm's bias lies right after its gain. It must not know what the numbers are.

use crate::Config;
use crate::config::{ExpertLayers, Names, NormPlace, Positions};
use std::borrow::Cow;
use std::collections::HashMap;
use tensor::{Device, Experts, Norm, NormKind, Operation, Phase, QkNorm, Weight, Work};

/// A named parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in `model.safetensors`.
    pub name: String,
    /// Its place in the flat buffer; `rows` is 1 for a vector.
    pub weight: Weight,
    /// What it does, which decides how it is initialised and optimised.
    pub role: Role,
    /// How the numbers of `model.safetensors` become these.
    pub storage: Storage,
}

/// How a file holds a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Row after row.
    AsIs,
    /// Column after column: GPT-2's matrices.
    Transposed,
    /// Less one: Gemma's gains.
    LessOne,
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
    /// A table of learned positions or of token types.
    Table,
}

impl Entry {
    /// The shape in `model.safetensors`: one axis for gains and biases.
    pub fn shape(&self) -> Vec<usize> {
        match (self.role, self.storage) {
            (Role::Gain | Role::Bias, _) => vec![self.weight.cols],
            (_, Storage::Transposed) => vec![self.weight.cols, self.weight.rows],
            _ => vec![self.weight.rows, self.weight.cols],
        }
    }
}

impl Entry {
    /// What a file holds for the parameter's elements.
    pub fn store<'a>(&self, elements: &'a [f32]) -> Cow<'a, [f32]> {
        match self.storage {
            Storage::AsIs => elements.into(),
            Storage::LessOne => elements.iter().map(|element| element - 1.0).collect(),
            Storage::Transposed => transposed(elements, self.weight.rows, self.weight.cols).into(),
        }
    }
}

/// (rows, cols) → (cols, rows).
fn transposed(elements: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let columns = (0..cols).flat_map(|column| (0..rows).map(move |row| row * cols + column));
    columns.map(|index| elements[index]).collect()
}

/// All parameters of a decoder.
#[derive(Clone, Debug)]
pub struct Layout {
    entries: Vec<Entry>,
    /// The index of each name.
    by_name: HashMap<String, usize>,
    len: usize,
    pub(crate) embedding: Weight,
    pub(crate) positions: Option<Weight>,
    pub(crate) token_type: Option<Weight>,
    pub(crate) embedding_norm: Option<Norm>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: Option<Norm>,
    pub(crate) head: Weight,
    /// Whether rows are turned into logits at all: an encoder's are not.
    has_head: bool,
}

/// The weights of one layer, matrices with the same input fused.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    /// Where the layer's weights begin.
    pub(crate) first: usize,
    pub(crate) attention_norm: Option<Norm>,
    pub(crate) qkv: Weight,
    pub(crate) qkv_bias: Option<Weight>,
    pub(crate) qk_norm: Option<QkNorm>,
    pub(crate) output: Weight,
    pub(crate) output_bias: Option<Weight>,
    /// The norm after attention, of its result or of the sum.
    pub(crate) attention_post_norm: Option<Norm>,
    pub(crate) mlp_norm: Option<Norm>,
    pub(crate) mlp: Mlp,
    /// The norm after the feed-forward layer, of its result or of the sum.
    pub(crate) mlp_post_norm: Option<Norm>,
}

/// The weights of a feed-forward layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mlp {
    /// One for all rows.
    Dense {
        /// The gate, if there is one, and the projection up.
        gate_up: Weight,
        gate_up_bias: Option<Weight>,
        down: Weight,
        down_bias: Option<Weight>,
    },
    /// Some of many for each row.
    Experts(Experts),
}

impl Layout {
    /// The layout of a decoder's parameters.
    pub fn new(config: &Config) -> Layout {
        let names = config.family.weight_names();
        let mut builder = Builder { entries: Vec::new(), len: 0, config, names };
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let embedding = builder.table(names.embedding, Role::Embedding, vocab);
        let positions = (config.positions == Positions::Learned)
            .then(|| builder.table(names.positions, Role::Table, config.max_positions));
        let token_type = (config.token_types > 0).then(|| {
            let table = builder.table(names.token_types, Role::Table, config.token_types);
            Weight { rows: 1, ..table }
        });
        let is_after = config.norm_place == NormPlace::AfterSum;
        let embedding_norm = is_after.then(|| builder.norm(names.embedding_norm));
        let layers = (0..config.layers).map(|index| builder.layer(index)).collect();
        let final_norm = (!is_after).then(|| builder.norm(names.final_norm));
        let head = match config.tie_embeddings {
            true => embedding,
            false => builder.matrix(&format!("{}.weight", names.head), Role::Head, vocab, width),
        };
        let Builder { entries, len, .. } = builder;
        let by_name = entries.iter().enumerate().map(|(index, entry)| (entry.name.clone(), index)).collect();
        Layout {
            entries,
            by_name,
            len,
            embedding,
            positions,
            token_type,
            embedding_norm,
            layers,
            final_norm,
            head,
            has_head: config.causal,
        }
    }

    /// The parameters in the order of their offsets.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The parameter of a name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|index| &self.entries[*index])
    }

    /// Elements of the flat buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Parameters that take part in a matrix product for each token: all but the input embedding
    /// table; a tied table is counted, since the output projection uses it.
    pub fn matmul_parameter_count(&self) -> usize {
        let tables = self.entries.iter().filter(|entry| entry.role == Role::Table);
        let tables: usize = tables.map(|entry| entry.weight.len()).sum();
        self.len - tables - if self.lookup().is_some() { 0 } else { self.embedding.len() }
    }

    /// Those of [`Layout::matmul_parameter_count`] that a token is multiplied with: of a layer's experts the chosen ones.
    pub fn active_parameter_count(&self) -> usize {
        let idle = |layer: &LayerWeights| match layer.mlp {
            Mlp::Dense { .. } => 0,
            Mlp::Experts(experts) => (experts.count() - experts.top_k) * experts.stride,
        };
        self.matmul_parameter_count() - self.layers.iter().map(idle).sum::<usize>()
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

    /// Every matrix that rows are multiplied with, the output projection too: what an engine packs once.
    pub fn matrices(&self) -> Vec<Weight> {
        let mut matrices = Vec::new();
        for layer in &self.layers {
            matrices.extend([layer.qkv, layer.output]);
            match layer.mlp {
                Mlp::Dense { gate_up, down, .. } => matrices.extend([gate_up, down]),
                Mlp::Experts(experts) => {
                    matrices.push(experts.router);
                    let each = |expert| [experts.gate_up_of(expert), experts.down_of(expert)];
                    matrices.extend((0..experts.count()).flat_map(each));
                }
            }
        }
        if self.has_head {
            matrices.push(self.head);
        }
        matrices
    }
}

struct Builder<'a> {
    entries: Vec<Entry>,
    len: usize,
    config: &'a Config,
    names: &'static Names,
}

impl Builder<'_> {
    fn layer(&mut self, index: usize) -> LayerWeights {
        let (config, names) = (self.config, self.names);
        let name = |part: &str| format!("{}{index}.{part}", names.layer);
        let (width, head_dim) = (config.hidden_size, config.head_dim);
        let (q, kv) = (config.heads * head_dim, config.kv_heads * head_dim);
        let has_before = config.norm_place != NormPlace::AfterSum;
        let has_after = config.norm_place != NormPlace::Before;

        let first = self.len;
        let attention_norm = has_before.then(|| self.norm(&name(names.attention_norm)));
        let parts = parts(names.qkv, &[q, kv, kv], &name);
        let (qkv, qkv_bias) = self.fused(&parts, width, config.qkv_bias);
        let qk_norm = config.qk_norm.then(|| QkNorm {
            query: self.gain(&name(names.q_norm), head_dim),
            key: self.gain(&name(names.k_norm), head_dim),
            eps: config.norm_eps,
        });
        let (output, output_bias) = self.residual(&name(names.output), width, q, config.output_bias);
        let attention_post_norm = has_after.then(|| self.norm(&name(names.attention_post_norm)));
        let mlp_norm = has_before.then(|| self.norm(&name(names.mlp_norm)));
        let mlp = match config.experts_of(index) {
            Some(experts) => Mlp::Experts(self.experts(experts, &name)),
            None => self.dense(&name),
        };
        let mlp_post_norm = has_after.then(|| self.norm(&name(names.mlp_post_norm)));
        LayerWeights {
            first,
            attention_norm,
            qkv,
            qkv_bias,
            qk_norm,
            output,
            output_bias,
            attention_post_norm,
            mlp_norm,
            mlp,
            mlp_post_norm,
        }
    }

    fn dense(&mut self, name: &dyn Fn(&str) -> String) -> Mlp {
        let (config, names) = (self.config, self.names);
        let (width, ffn) = (config.hidden_size, config.intermediate_size);
        let rows: &[usize] = if config.gated { &[ffn, ffn] } else { &[ffn] };
        let parts = parts(names.gate_up, rows, name);
        let (gate_up, gate_up_bias) = self.fused(&parts, width, config.mlp_bias);
        let (down, down_bias) = self.residual(&name(names.down), width, ffn, config.mlp_bias);
        Mlp::Dense { gate_up, gate_up_bias, down, down_bias }
    }

    fn experts(&mut self, layer: &ExpertLayers, name: &dyn Fn(&str) -> String) -> Experts {
        let (config, names) = (self.config, self.names);
        let (width, ffn) = (config.hidden_size, layer.intermediate_size);
        let router = self.matrix(&format!("{}.weight", name(names.router)), Role::Hidden, layer.count, width);
        let start = self.len;
        for expert in 0..layer.count {
            let part = |part: usize| name(&format!("{}{expert}.{}", names.expert, names.expert_parts[part]));
            self.fused(&[(part(0), ffn), (part(1), ffn)], width, false);
            self.residual(&part(2), width, ffn, false);
        }
        Experts {
            router,
            gate_up: Weight { offset: start, rows: 2 * ffn, cols: width },
            down: Weight { offset: start + 2 * ffn * width, rows: width, cols: ffn },
            stride: 3 * ffn * width,
            top_k: layer.top_k,
            weighting: layer.weighting,
            activation: config.activation,
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

    /// A norm of rows: its gain and, of a layer norm, its bias.
    fn norm(&mut self, name: &str) -> Norm {
        let (kind, width) = (self.config.norm, self.config.hidden_size);
        let gain = self.gain(name, width);
        let bias = (kind == NormKind::Layer).then(|| self.vector(&format!("{name}.bias"), Role::Bias, width));
        Norm { kind, gain, bias, eps: self.config.norm_eps }
    }

    fn gain(&mut self, name: &str, width: usize) -> Weight {
        self.vector(&format!("{name}.weight"), Role::Gain, width)
    }

    fn vector(&mut self, name: &str, role: Role, cols: usize) -> Weight {
        self.matrix(name, role, 1, cols)
    }

    /// A table of rows of the stream's width.
    fn table(&mut self, name: &str, role: Role, rows: usize) -> Weight {
        self.matrix(&format!("{name}.weight"), role, rows, self.config.hidden_size)
    }

    fn matrix(&mut self, name: &str, role: Role, rows: usize, cols: usize) -> Weight {
        let weight = Weight { offset: self.len, rows, cols };
        let storage = match role {
            Role::Gain if self.names.gains_less_one => Storage::LessOne,
            Role::Hidden | Role::Residual if self.names.is_transposed => Storage::Transposed,
            _ => Storage::AsIs,
        };
        self.entries.push(Entry { name: name.to_owned(), weight, role, storage });
        self.len += weight.len();
        weight
    }
}

/// Names and rows of matrices with one input; one name where files hold them as one.
fn parts(names: &[&str], rows: &[usize], name: &dyn Fn(&str) -> String) -> Vec<(String, usize)> {
    match names {
        [one] => vec![(name(one), rows.iter().sum())],
        names => names.iter().zip(rows).map(|(part, rows)| (name(part), *rows)).collect(),
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
