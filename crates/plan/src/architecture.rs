//! A decoder's shape, as far as cost depends on it: parameters, arithmetic and widths.
//!
//! It comes from the table of known models, from a `config.json`, or from a number of parameters alone. It must not know
//! chips.

mod config;
mod known;

pub use config::from_config;
pub use known::{Origin, known, known_names, origins};

/// What is wrong with the description of a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// Neither a size, a known name nor a file.
    #[error("`{name}` is no size such as 70B, no known model and no config.json; known models: {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// The known models.
        known: String,
    },
    /// A `config.json` that lacks what is needed.
    #[error("{place}: {message}")]
    Config {
        /// The file.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A size that no usual shape has.
    #[error("{parameters:.3e} parameters: shapes are made for 1e7 to 1e14; give a config.json for others")]
    Size {
        /// What was asked for.
        parameters: f64,
    },
}

/// Experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// Experts that a router chooses among.
    pub count: f64,
    /// Experts that a token goes to.
    pub chosen: f64,
    /// Experts that every token goes to.
    pub shared: f64,
    /// Width of each.
    pub ffn: f64,
    /// Layers with one ordinary feed-forward layer instead.
    pub dense_layers: f64,
    /// Groups that experts are in; 1 where routing knows none.
    pub groups: f64,
    /// Groups that a token's experts are chosen from (DeepSeek-V3, arXiv:2412.19437, section 2.1.2).
    pub chosen_groups: f64,
}

/// Latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Width of the queries' latent; 0 where queries have none.
    pub query_rank: f64,
    /// Width of the latent that keys and values are made from: what the cache holds.
    pub kv_rank: f64,
    /// Width of each head's part that is rotated; its key is common to all heads.
    pub rope: f64,
    /// Width of each value head.
    pub value: f64,
}

/// A decoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Its name.
    pub name: String,
    /// Where the shape comes from.
    pub source: String,
    /// Layers.
    pub layers: f64,
    /// Width of the residual stream.
    pub hidden: f64,
    /// Width of the dense feed-forward layer.
    pub ffn: f64,
    /// Query heads.
    pub heads: f64,
    /// Key and value heads.
    pub kv_heads: f64,
    /// Width of a query or key head (without the rotated part of latent attention).
    pub head: f64,
    /// Entries of the vocabulary.
    pub vocabulary: f64,
    /// Whether the feed-forward layer is gated.
    pub is_gated: bool,
    /// Whether the output projection is the embedding table.
    pub is_tied: bool,
    /// Experts, if any.
    pub experts: Option<Experts>,
    /// Latent attention, if any.
    pub latent: Option<Latent>,
}

impl Architecture {
    /// A usual shape of about this many parameters: width 128 times the layers (as GPT-3, Brown et al. 2020, table 2.1,
    /// has from 13B up), heads of 128, ordinary attention and an ungated feed-forward layer whose width is chosen so that
    /// the parameters come out.
    ///
    /// # Errors
    /// [`ModelError::Size`] beyond 10⁷ to 10¹⁴.
    pub fn of_size(parameters: f64) -> Result<Architecture, ModelError> {
        if !(1e7..=1e14).contains(&parameters) {
            return Err(ModelError::Size { parameters });
        }
        let vocabulary: f64 = if parameters < 3e8 { 8_192.0 } else { 51_200.0 };
        let step = if parameters > 5e9 { 8.0 } else { 2.0 };
        let layers = ((parameters / (12.0 * 128.0 * 128.0)).cbrt() / step).round().max(1.0) * step;
        let unit = if parameters > 5e9 { 1024.0 } else { 128.0 };
        let hidden = ((parameters / (12.0 * layers)).sqrt() / unit).round().max(1.0) * unit;
        let mut shape = Architecture {
            name: format!("{} parameters", crate::units::show_count(parameters)),
            source: "a usual shape of this size (width 128 × layers, heads of 128)".to_owned(),
            layers,
            hidden,
            ffn: 0.0,
            heads: hidden / 128.0,
            kv_heads: hidden / 128.0,
            head: 128.0,
            vocabulary,
            is_gated: false,
            is_tied: true,
            experts: None,
            latent: None,
        };
        let missing = parameters - shape.parameters();
        shape.ffn = (missing / (2.0 * hidden * layers)).round().max(64.0);
        Ok(shape)
    }

    /// Width of the queries of a row.
    pub fn query_width(&self) -> f64 {
        self.heads * (self.head + self.latent.map_or(0.0, |latent| latent.rope))
    }

    /// Width of the attention's result of a row.
    pub fn value_width(&self) -> f64 {
        self.heads * self.latent.map_or(self.head, |latent| latent.value)
    }

    /// Elements that a cache keeps of a token in a layer.
    pub fn cache_width(&self) -> f64 {
        match self.latent {
            Some(latent) => latent.kv_rank + latent.rope,
            None => 2.0 * self.kv_heads * self.head,
        }
    }

    /// The attention's matrices, as (inputs, outputs).
    pub fn attention_matrices(&self) -> Vec<(f64, f64)> {
        let out = (self.value_width(), self.hidden);
        let Some(latent) = self.latent else {
            let kv = self.kv_heads * self.head;
            return vec![(self.hidden, self.query_width() + 2.0 * kv), out];
        };
        let queries = match latent.query_rank {
            0.0 => vec![(self.hidden, self.query_width())],
            rank => vec![(self.hidden, rank), (rank, self.query_width())],
        };
        let keys = [
            (self.hidden, latent.kv_rank + latent.rope),
            (latent.kv_rank, self.heads * (self.head + latent.value)),
            out,
        ];
        queries.into_iter().chain(keys).collect()
    }

    /// The matrices of a feed-forward layer of width `ffn`, as (inputs, outputs).
    pub fn ffn_matrices(&self, ffn: f64) -> [(f64, f64); 2] {
        [(self.hidden, if self.is_gated { 2.0 * ffn } else { ffn }), (ffn, self.hidden)]
    }

    /// Layers with experts.
    pub fn expert_layers(&self) -> f64 {
        self.experts.map_or(0.0, |experts| self.layers - experts.dense_layers)
    }

    /// Parameters of the attention's matrices of a layer.
    pub fn attention_parameters(&self) -> f64 {
        area(&self.attention_matrices())
    }

    /// Parameters of a dense feed-forward layer.
    pub fn dense_ffn_parameters(&self) -> f64 {
        area(&self.ffn_matrices(self.ffn))
    }

    /// Parameters of all routed experts of a layer.
    pub fn routed_parameters(&self) -> f64 {
        self.experts.map_or(0.0, |experts| experts.count * area(&self.ffn_matrices(experts.ffn)))
    }

    /// Parameters of the output projection, of which the embedding has as many.
    pub fn table_parameters(&self) -> f64 {
        self.vocabulary * self.hidden
    }

    /// All parameters.
    pub fn parameters(&self) -> f64 {
        let tables = if self.is_tied { 1.0 } else { 2.0 } * self.table_parameters();
        let each = self.attention_parameters() + 2.0 * self.hidden;
        let dense = (self.layers - self.expert_layers()) * self.dense_ffn_parameters();
        tables + self.layers * each + dense + self.expert_layers() * self.routed_and_shared() + self.hidden
    }

    /// Parameters outside the routed experts.
    pub fn common_parameters(&self) -> f64 {
        self.parameters() - self.expert_layers() * self.routed_parameters()
    }

    /// Parameters that take part for a token.
    pub fn active_parameters(&self) -> f64 {
        let idle = self
            .experts
            .map_or(0.0, |experts| (experts.count - experts.chosen) * area(&self.ffn_matrices(experts.ffn)));
        self.parameters() - self.expert_layers() * idle
    }

    /// Parameters of the products that a token takes part in: the active ones without the table that rows are only
    /// looked up in, and without norms.
    pub fn matmul_parameters(&self) -> f64 {
        let looked_up = if self.is_tied { 0.0 } else { self.table_parameters() };
        self.active_parameters() - looked_up - (2.0 * self.layers + 1.0) * self.hidden
    }

    /// Operations of a token's forward pass: 2 for each parameter of a product and 2 · (query + value width) for each
    /// token of the sequence and layer, masked pairs counted too (Chowdhery et al. 2022, "PaLM", appendix B).
    pub fn forward_flops(&self, sequence: f64) -> f64 {
        2.0 * self.matmul_parameters() + self.attention_flops(sequence)
    }

    /// The part of [`Architecture::forward_flops`] that grows with the sequence.
    pub fn attention_flops(&self, sequence: f64) -> f64 {
        2.0 * self.layers * (self.query_width() + self.value_width()) * sequence
    }

    fn routed_and_shared(&self) -> f64 {
        let Some(experts) = self.experts else { return 0.0 };
        let each = area(&self.ffn_matrices(experts.ffn));
        (experts.count + experts.shared) * each + experts.count * self.hidden
    }
}

fn area(matrices: &[(f64, f64)]) -> f64 {
    matrices.iter().map(|(inputs, outputs)| inputs * outputs).sum()
}

/// The model that a text names: a size ("70B"), a known model, or the text of a `config.json`.
///
/// # Errors
/// [`ModelError::Unknown`] with the known names, [`ModelError::Size`].
pub fn named(name: &str) -> Result<Architecture, ModelError> {
    if let Some(known) = known(name) {
        return Ok(known);
    }
    match crate::units::count(name, "parameters") {
        Ok(parameters) => Architecture::of_size(parameters),
        Err(_) => Err(ModelError::Unknown { name: name.to_owned(), known: known_names().join(", ") }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_come_out() {
        for parameters in [1e8, 1.3e9, 6.7e9, 65e9, 1e11, 175e9, 1.9e12, 19e12] {
            let shape = Architecture::of_size(parameters).unwrap();
            let error = shape.parameters() / parameters - 1.0;
            assert!(error.abs() < 0.01, "{parameters}: {error} {shape:?}");
            assert!((1.5..8.0).contains(&(shape.ffn / shape.hidden)), "{shape:?}");
        }
        assert!(Architecture::of_size(3.0).is_err());
    }

    #[test]
    fn names_and_sizes_are_told_apart() {
        assert_eq!(named("65B").unwrap().experts, None);
        assert_eq!(named("GPT-3").unwrap().layers, 96.0);
        let message = named("gtp-3").unwrap_err().to_string();
        assert!(message.contains("gtp-3") && message.contains("gpt-3-175b"), "{message}");
    }
}
