//! The catalogue of chips: what their makers publish, each figure with its source.
//!
//! The catalogue is `data/chips.toml`; a user's file of the same form adds chips and replaces those of the same name. A
//! figure that is not published says why, and whoever needs it gets that as an error. It must not guess.

use serde::Deserialize;
use std::collections::BTreeMap;

const SHIPPED: &str = include_str!("../data/chips.toml");

/// What is wrong with a catalogue, or missing in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A file that is not of the catalogue's form.
    #[error("{place}: {message}")]
    Form {
        /// The file.
        place: String,
        /// Where in it, and what is wrong.
        message: String,
    },
    /// A chip that the catalogue does not have.
    #[error("there is no chip `{name}`; known: {known}. Describe others in a file: --catalog FILE")]
    UnknownChip {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// A figure that is needed and that the catalogue does not have.
    #[error(
        "{chip}: {figure} is not known ({why}); put a measured one into a file of your own: --catalog FILE"
    )]
    Unpublished {
        /// The chip's name.
        chip: String,
        /// What is missing.
        figure: String,
        /// Why.
        why: String,
    },
}

/// A figure of a chip.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// Published or measured.
    Known {
        /// The value, in the unit of its field.
        value: f64,
        /// Who says so.
        source: String,
        /// Whether the source's text was read beside the figure; true of a file of the user's own, who vouches for it.
        is_reached: bool,
    },
    /// Not published, and why not.
    Unpublished(String),
}

impl Figure {
    /// The value, if there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Figure::Known { value, .. } => Some(*value),
            Figure::Unpublished(_) => None,
        }
    }

    /// Whether the figure's source was read beside it; a figure that is not published has none.
    pub fn is_reached(&self) -> Option<bool> {
        match self {
            Figure::Known { is_reached, .. } => Some(*is_reached),
            Figure::Unpublished(_) => None,
        }
    }

    /// The source, or why there is none.
    pub fn source(&self) -> &str {
        match self {
            Figure::Known { source, .. } => source,
            Figure::Unpublished(why) => why,
        }
    }
}

/// The types that products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit.
    Fp32,
    /// 19-bit products of 32-bit numbers.
    Tf32,
    /// 16-bit with eight bits of exponent.
    Bf16,
    /// 16-bit with five bits of exponent.
    Fp16,
    /// 8-bit floating point.
    Fp8,
    /// 8-bit integers.
    Int8,
    /// 4-bit floating point.
    Fp4,
}

impl Precision {
    /// All, by their names.
    pub const ALL: [(&'static str, Precision); 7] = [
        ("bf16", Precision::Bf16),
        ("fp16", Precision::Fp16),
        ("fp8", Precision::Fp8),
        ("fp4", Precision::Fp4),
        ("int8", Precision::Int8),
        ("tf32", Precision::Tf32),
        ("fp32", Precision::Fp32),
    ];

    /// The name as people and catalogues write it.
    pub fn name(self) -> &'static str {
        Precision::ALL.iter().find(|known| known.1 == self).map_or("", |known| known.0)
    }

    /// The precision of a name.
    pub fn from_name(name: &str) -> Option<Precision> {
        Precision::ALL.iter().find(|known| known.0 == name.to_lowercase()).map(|known| known.1)
    }

    /// Bytes of an element in memory; FP8 training keeps 16-bit activations and weights beside it.
    pub fn bytes(self) -> f64 {
        match self {
            Precision::Fp32 | Precision::Tf32 => 4.0,
            Precision::Bf16 | Precision::Fp16 => 2.0,
            Precision::Fp8 | Precision::Int8 => 1.0,
            Precision::Fp4 => 0.5,
        }
    }
}

/// A chip.
#[derive(Clone, Debug, PartialEq)]
pub struct Chip {
    /// Its name on the command line.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// Other names.
    pub also: Vec<String>,
    /// Which calibration it takes.
    pub class: String,
    /// Chips that the links inside a node reach.
    pub node: usize,
    /// Whether the links are a torus that has no faster inner part.
    pub is_torus: bool,
    /// Dense peaks, 10¹² operations a second.
    pub peak: BTreeMap<Precision, Figure>,
    /// Memory, 10⁹ bytes.
    pub memory: Figure,
    /// Memory's bandwidth, 10⁹ bytes/s.
    pub bandwidth: Figure,
    /// Links inside a node, both directions together, 10⁹ bytes/s.
    pub link: Figure,
    /// Network out of the node, one direction, 10⁹ bytes/s for each chip.
    pub network: Figure,
    /// Power at full load, watts.
    pub power: Figure,
    /// Rent, US dollars an hour, where somebody publishes one.
    pub price: Figure,
}

impl Chip {
    /// The dense peak in operations a second.
    ///
    /// # Errors
    /// [`CatalogError::Unpublished`] where it is not known.
    pub fn peak(&self, precision: Precision) -> Result<f64, CatalogError> {
        let name = format!("its {} peak", precision.name());
        match self.peak.get(&precision) {
            Some(figure) => self.need(&name, figure).map(|value| value * 1e12),
            None => {
                let known: Vec<&str> = self.peak.keys().map(|known| known.name()).collect();
                Err(self.missing(&name, &format!("the catalogue has {}", known.join(", "))))
            }
        }
    }

    /// Memory in bytes.
    ///
    /// # Errors
    /// [`CatalogError::Unpublished`] where it is not known.
    pub fn memory_bytes(&self) -> Result<f64, CatalogError> {
        self.need("its memory", &self.memory).map(|value| value * 1e9)
    }

    /// Memory's bandwidth in bytes a second.
    ///
    /// # Errors
    /// [`CatalogError::Unpublished`] where it is not known.
    pub fn bytes_per_second(&self) -> Result<f64, CatalogError> {
        self.need("its memory bandwidth", &self.bandwidth).map(|value| value * 1e9)
    }

    fn need(&self, name: &str, figure: &Figure) -> Result<f64, CatalogError> {
        figure.value().ok_or_else(|| self.missing(name, figure.source()))
    }

    /// The error that a figure of this chip is not known.
    pub fn missing(&self, figure: &str, why: &str) -> CatalogError {
        CatalogError::Unpublished { chip: self.name.clone(), figure: figure.to_owned(), why: why.to_owned() }
    }
}

/// All chips, in the catalogue's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    chips: Vec<Chip>,
}

impl Catalog {
    /// The catalogue that ships.
    pub fn shipped() -> Catalog {
        Catalog::parse(SHIPPED, "data/chips.toml").expect("the shipped catalogue is tested")
    }

    /// Reads a catalogue; `place` is for messages.
    ///
    /// # Errors
    /// [`CatalogError::Form`] with the place in the file.
    pub fn parse(text: &str, place: &str) -> Result<Catalog, CatalogError> {
        let form = |message: String| CatalogError::Form { place: place.to_owned(), message };
        let file: File = toml::from_str(text).map_err(|error| form(error.to_string()))?;
        let chips = file.chip.into_iter().map(|raw| raw.chip(&file.sources).map_err(&form));
        Ok(Catalog { chips: chips.collect::<Result<_, _>>()? })
    }

    /// This catalogue with another's chips, which replace those of the same name.
    pub fn with(mut self, other: Catalog) -> Catalog {
        self.chips.retain(|known| other.chips.iter().all(|new| new.name != known.name));
        self.chips.extend(other.chips);
        self
    }

    /// The shipped catalogue's sources, each with whether its text was read beside the figures.
    pub fn shipped_sources() -> Vec<(String, bool)> {
        let file: File = toml::from_str(SHIPPED).expect("the shipped catalogue is tested");
        file.sources.values().map(|maker| (maker.parts().0.to_owned(), maker.parts().1)).collect()
    }

    /// The chips.
    pub fn chips(&self) -> &[Chip] {
        &self.chips
    }

    /// The chip of a name or one of its other names.
    ///
    /// # Errors
    /// [`CatalogError::UnknownChip`] with all names.
    pub fn chip(&self, name: &str) -> Result<&Chip, CatalogError> {
        let wanted = name.to_lowercase().replace(['_', ' '], "-");
        let found = self.chips.iter().find(|chip| chip.name == wanted || chip.also.contains(&wanted));
        found.ok_or_else(|| {
            let names: Vec<&str> = self.chips.iter().map(|chip| chip.name.as_str()).collect();
            CatalogError::UnknownChip { name: name.to_owned(), known: names.join(", ") }
        })
    }
}

/// Words of a driver's name that tell a form which a chip's title must have too.
const FORMS: [&str; 9] = ["pcie", "nvl", "laptop", "mobile", "max", "super", "ti", "d", "mig"];
/// How far a driver's memory may be from the catalogue's.
const MEMORY_TOLERANCE: f64 = 0.12;

impl Catalog {
    /// The chip that a driver calls `name` and gives `memory_bytes`: the one whose model is in the name and whose memory is
    /// nearest; none where the name tells a form (PCIe, laptop …) that the catalogue does not have.
    pub fn of_driver(&self, name: &str, memory_bytes: f64) -> Option<&Chip> {
        let of_driver = words(name);
        let distance = |chip: &Chip| {
            let memory = chip.memory_bytes().ok()?;
            let distance = (memory_bytes / memory - 1.0).abs();
            let title = words(&chip.title);
            // A model has digits and is no amount of memory: "A100", "4090", "MI300X".
            let is_model = |word: &&String| {
                word.len() >= 3 && word.chars().any(|c| c.is_ascii_digit()) && !word.starts_with("sxm")
            };
            let model = title.iter().find(is_model)?;
            let has_form = FORMS.iter().all(|form| {
                let form = (*form).to_owned();
                !of_driver.contains(&form) || title.contains(&form)
            });
            (of_driver.contains(model) && has_form && distance <= MEMORY_TOLERANCE).then_some(distance)
        };
        let found = self.chips.iter().filter_map(|chip| Some((chip, distance(chip)?)));
        found.min_by(|a, b| a.1.total_cmp(&b.1)).map(|found| found.0)
    }
}

fn words(text: &str) -> Vec<String> {
    text.to_lowercase().split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    sources: BTreeMap<String, Maker>,
    #[serde(default)]
    chip: Vec<RawChip>,
}

/// A source that several figures share.
#[derive(Deserialize)]
#[serde(untagged)]
enum Maker {
    Vouched(String),
    Checked { at: String, reached: bool },
}

impl Maker {
    fn parts(&self) -> (&str, bool) {
        match self {
            Maker::Vouched(at) => (at, true),
            Maker::Checked { at, reached } => (at, *reached),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFigure {
    is: Option<f64>,
    by: Option<String>,
    unpublished: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChip {
    name: String,
    title: Option<String>,
    #[serde(default)]
    also: Vec<String>,
    class: String,
    #[serde(default = "one")]
    node: usize,
    #[serde(default)]
    torus: bool,
    peak: BTreeMap<Precision, RawFigure>,
    memory: RawFigure,
    bandwidth: RawFigure,
    link: Option<RawFigure>,
    network: Option<RawFigure>,
    power: Option<RawFigure>,
    price: Option<RawFigure>,
}

fn one() -> usize {
    1
}

impl RawChip {
    fn chip(self, sources: &BTreeMap<String, Maker>) -> Result<Chip, String> {
        let name = self.name;
        let figure =
            |raw: RawFigure, what: &str| raw.figure(sources).map_err(|why| format!("{name}.{what}: {why}"));
        let optional = |raw: Option<RawFigure>, what: &str| match raw {
            Some(raw) => figure(raw, what),
            None => Ok(Figure::Unpublished("the catalogue does not have it".to_owned())),
        };
        if self.node == 0 {
            return Err(format!("{name}.node: at least 1"));
        }
        let peaks = self.peak.into_iter().map(|(precision, raw)| Ok((precision, figure(raw, "peak")?)));
        Ok(Chip {
            peak: peaks.collect::<Result<_, String>>()?,
            memory: figure(self.memory, "memory")?,
            bandwidth: figure(self.bandwidth, "bandwidth")?,
            link: optional(self.link, "link")?,
            network: optional(self.network, "network")?,
            power: optional(self.power, "power")?,
            price: optional(self.price, "price")?,
            title: self.title.unwrap_or_else(|| name.clone()),
            also: self.also,
            class: self.class,
            node: self.node,
            is_torus: self.torus,
            name: name.clone(),
        })
    }
}

impl RawFigure {
    fn figure(self, sources: &BTreeMap<String, Maker>) -> Result<Figure, String> {
        match (self.is, self.by, self.unpublished) {
            (Some(value), Some(by), None) if value.is_finite() && value > 0.0 => {
                // A key of the file's sources, or the source itself.
                let (source, is_reached) = sources.get(&by).map_or((by.as_str(), true), Maker::parts);
                Ok(Figure::Known { value, source: source.to_owned(), is_reached })
            }
            (Some(value), Some(_), None) => Err(format!("{value} is no figure: a finite number above zero")),
            (None, None, Some(why)) => Ok(Figure::Unpublished(why)),
            _ => Err("write { is = NUMBER, by = \"source\" } or { unpublished = \"why\" }".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_shipped_catalogue_is_whole() {
        let catalog = Catalog::shipped();
        let named = [
            "a100",
            "a800",
            "h100",
            "h800",
            "h20",
            "h200",
            "b200",
            "mi300x",
            "tpu-v4",
            "tpu-v5p",
            "trainium2",
            "maia-100",
            "cobalt-100",
            "tensor-g3",
            "ascend-910b",
            "ascend-910c",
            "kunlun",
        ];
        for name in named {
            catalog.chip(name).unwrap();
        }
        // A shipped figure's source says whether it was read: a key of the table, never a text of its own.
        let sources = Catalog::shipped_sources();
        for chip in catalog.chips() {
            let figures = [&chip.memory, &chip.bandwidth, &chip.link, &chip.network, &chip.power];
            for figure in figures.into_iter().chain(chip.peak.values()) {
                assert!(figure.source().len() > 4, "{}: {figure:?}", chip.name);
                if figure.value().is_some() {
                    assert!(
                        sources.iter().any(|source| source.0 == figure.source()),
                        "{}: {figure:?}",
                        chip.name
                    );
                    let named = figure.source().contains("http") || figure.source().contains(' ');
                    assert!(named, "{}: a key without a source: {}", chip.name, figure.source());
                }
            }
        }
        assert_eq!(catalog.chip("A100 SXM 80g").unwrap().peak(Precision::Bf16), Ok(312e12));
    }

    #[test]
    fn drivers_names_find_their_chip_or_none() {
        let catalog = Catalog::shipped();
        let of = |name: &str, mebibytes: f64| {
            catalog.of_driver(name, mebibytes * 1_048_576.0).map(|chip| chip.name.as_str())
        };
        for (name, mebibytes, chip) in [
            ("NVIDIA A100-SXM4-80GB", 81_920.0, Some("a100-sxm-80g")),
            ("NVIDIA A100-SXM4-40GB", 40_960.0, Some("a100-sxm-40g")),
            ("NVIDIA H100 80GB HBM3", 81_559.0, Some("h100-sxm-80g")),
            ("NVIDIA H200", 143_771.0, Some("h200-sxm-141g")),
            ("NVIDIA GeForce RTX 4090", 24_564.0, Some("rtx-4090-24g")),
            ("Tesla V100-SXM2-32GB", 32_768.0, Some("v100-sxm-32g")),
            // Another form of a chip is another chip.
            ("NVIDIA A100-PCIE-40GB", 40_960.0, None),
            ("NVIDIA H100 PCIe", 81_559.0, None),
            ("NVIDIA H100 NVL", 95_830.0, None),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376.0, None),
            ("Tesla V100-SXM2-16GB", 16_384.0, None),
            ("NVIDIA T4", 15_360.0, None),
        ] {
            assert_eq!(of(name, mebibytes), chip, "{name}");
        }
    }

    #[test]
    fn what_is_not_published_is_said() {
        let catalog = Catalog::shipped();
        let message = catalog.chip("tensor-g3").unwrap().peak(Precision::Bf16).unwrap_err().to_string();
        assert!(message.contains("does not publish") && message.contains("--catalog"), "{message}");
        let message = catalog.chip("v100-sxm-32g").unwrap().peak(Precision::Bf16).unwrap_err().to_string();
        assert!(message.contains("fp16"), "{message}");
        let message = catalog.chip("h1000").unwrap_err().to_string();
        assert!(message.contains("h1000") && message.contains("h100-sxm-80g"), "{message}");
    }

    #[test]
    fn users_add_and_replace() {
        let mine = "[[chip]]\nname = \"a100-sxm-80g\"\nclass = \"ampere\"\npeak = { bf16 = { is = 250, by = \"measured\" } }\n\
                    memory = { is = 80, by = \"m\" }\nbandwidth = { is = 1800, by = \"m\" }\n";
        let catalog = Catalog::shipped().with(Catalog::parse(mine, "mine.toml").unwrap());
        let chip = catalog.chip("a100-sxm-80g").unwrap();
        assert_eq!(chip.peak(Precision::Bf16), Ok(250e12));
        assert_eq!(chip.link.value(), None);
        for (from, to, part) in [
            ("is = 250", "is = -1", "above zero"),
            (", by = \"measured\"", "", "write { is"),
            ("class", "clas", "clas"),
            ("bf16", "bf17", "bf17"),
        ] {
            let message = Catalog::parse(&mine.replace(from, to), "mine.toml").unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("mine.toml"), "{message}");
        }
    }
}
