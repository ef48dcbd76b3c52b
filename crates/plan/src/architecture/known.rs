//! The table of known models, `data/models.toml`. It must not compute.

use super::{Architecture, Experts, Latent};
use serde::Deserialize;

const TABLE: &str = include_str!("../../data/models.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default)]
    also: Vec<String>,
    source: String,
    reached: bool,
    layers: f64,
    hidden: f64,
    ffn: f64,
    heads: f64,
    kv_heads: Option<f64>,
    head: Option<f64>,
    vocabulary: f64,
    #[serde(default)]
    gated: bool,
    #[serde(default)]
    tied: bool,
    experts: Option<ExpertsRow>,
    latent: Option<LatentRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpertsRow {
    count: f64,
    chosen: f64,
    #[serde(default)]
    shared: f64,
    ffn: f64,
    #[serde(default)]
    dense_layers: f64,
    #[serde(default = "one")]
    groups: f64,
    #[serde(default = "one")]
    chosen_groups: f64,
}

fn one() -> f64 {
    1.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LatentRow {
    query_rank: f64,
    kv_rank: f64,
    rope: f64,
    value: f64,
}

/// The known model of a name, whatever its case.
pub fn known(name: &str) -> Option<Architecture> {
    let wanted = name.to_lowercase().replace(['_', ' '], "-");
    rows().into_iter().find(|row| row.name == wanted || row.also.contains(&wanted)).map(Row::architecture)
}

/// Where a known shape comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The model.
    pub name: String,
    /// The source.
    pub source: String,
    /// Whether the source's text was read beside the row.
    pub is_reached: bool,
}

/// Where each known shape comes from, in the table's order.
pub fn origins() -> Vec<Origin> {
    let origin = |row: Row| Origin { name: row.name, source: row.source, is_reached: row.reached };
    rows().into_iter().map(origin).collect()
}

/// All names, in the table's order.
pub fn known_names() -> Vec<String> {
    rows().into_iter().map(|row| row.name).collect()
}

fn rows() -> Vec<Row> {
    toml::from_str::<File>(TABLE).expect("the table of models is tested").model
}

impl Row {
    fn architecture(self) -> Architecture {
        Architecture {
            layers: self.layers,
            hidden: self.hidden,
            ffn: self.ffn,
            heads: self.heads,
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            head: self.head.unwrap_or(self.hidden / self.heads),
            vocabulary: self.vocabulary,
            is_gated: self.gated,
            is_tied: self.tied,
            experts: self.experts.map(|row| Experts {
                count: row.count,
                chosen: row.chosen,
                shared: row.shared,
                ffn: row.ffn,
                dense_layers: row.dense_layers,
                groups: row.groups,
                chosen_groups: row.chosen_groups,
            }),
            latent: self.latent.map(|row| Latent {
                query_rank: row.query_rank,
                kv_rank: row.kv_rank,
                rope: row.rope,
                value: row.value,
            }),
            name: self.name,
            source: self.source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_the_published_ones() {
        for (name, billions, active) in [
            ("gpt-3-175b", 174.6, 174.6),
            ("megatron-530b", 529.6, 529.6),
            ("megatron-1t", 1008.0, 1008.0),
            ("palm-540b", 540.35, 540.35),
            ("llama-65b", 65.2, 65.2),
            ("llama-3.1-8b", 8.03, 8.03),
            ("llama-3.1-405b", 405.9, 405.9),
            ("deepseek-v2", 235.7, 21.4),
            ("deepseek-v3", 671.0, 37.5),
            ("glm-130b", 130.0, 130.0),
            ("bloom-176b", 176.2, 176.2),
            ("mixtral-8x7b", 46.7, 12.9),
            ("gpt-2-1.5b", 1.557, 1.557),
            ("qwen2.5-72b", 72.7, 72.7),
            ("nemotron-4-340b", 341.0, 341.0),
            ("pangu-ultra-135b", 135.0, 135.0),
        ] {
            let model = known(name).unwrap_or_else(|| panic!("{name}"));
            for (counted, told) in [(model.parameters(), billions), (model.active_parameters(), active)] {
                let error = counted / (told * 1e9) - 1.0;
                assert!(error.abs() < 0.02, "{name}: {counted:e} for {told}B");
            }
        }
    }
}
