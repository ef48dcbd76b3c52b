//! A model's files: a GGUF file or a Hugging Face folder, opened without reading more than headers.
//!
//! For every entry of the decoder's layout they offer the stored tensor as typed bytes of a memory map, and what is to be
//! done to it. This is the only place where weights are read; it must not know what they compute.

mod architecture;
mod container;
mod export;
mod folder;
mod gguf_config;
mod mix;
mod names;
mod place;

pub(crate) use container::Container;
pub use export::Composition;
pub use mix::Mix;
pub(crate) use place::{Candidate, Places};
pub use place::{Change, RowOrder, Stored};

use crate::{Config, Decoder, Entry, Error};
use base::gguf;
use std::path::{Path, PathBuf};
use tensor::Exec;

/// An opened model.
pub struct ModelFile {
    path: PathBuf,
    decoder: Decoder,
    container: Container,
    places: Places,
}

/// How a model is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One GGUF file, or a split one.
    Gguf,
    /// `config.json` beside safetensors.
    HuggingFace,
}

impl Format {
    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Format::Gguf => "GGUF",
            Format::HuggingFace => "Hugging Face folder",
        }
    }
}

impl ModelFile {
    /// Opens a GGUF file or a folder; reads headers alone.
    ///
    /// # Errors
    /// A file is missing or damaged, the architecture unknown, or a tensor is missing, unknown, of another shape or of a
    /// type that is not supported.
    pub fn open(path: &Path) -> Result<ModelFile, Error> {
        if path.is_file() { ModelFile::open_gguf(path) } else { ModelFile::open_folder(path) }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        self.decoder.config()
    }

    /// The decoder that computes the model.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// How the model is stored.
    pub fn format(&self) -> Format {
        match self.container.as_gguf() {
            Some(_) => Format::Gguf,
            None => Format::HuggingFace,
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the weights.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.container.paths()
    }

    /// Bytes of the files that hold the weights.
    pub fn len_bytes(&self) -> u64 {
        self.container.len_bytes()
    }

    /// Gives back the memory of the tensors that were read; they are read again where they are asked for again.
    pub fn release(&self) {
        self.container.release();
    }

    /// The GGUF file, if it is one: its metadata hold the tokenizer.
    pub fn gguf(&self) -> Option<&gguf::File> {
        self.container.as_gguf()
    }

    /// An entry's rows as the files hold them.
    ///
    /// # Panics
    /// The entry is of another decoder's layout.
    pub fn stored(&self, entry: &Entry) -> Stored<'_> {
        let entries = self.decoder.layout().entries();
        let index = entries.binary_search_by_key(&entry.weight.offset, |known| known.weight.offset);
        let index = index.ok().filter(|&index| entries[index] == *entry);
        self.places.stored(&self.container, index.expect("the entry is of this model's layout"))
    }

    /// All parameters as f32 into a flat buffer of the layout's length.
    ///
    /// # Panics
    /// `flat` has another length.
    pub fn read_f32(&self, exec: Exec<'_>, flat: &mut [f32]) {
        read_all(&self.container, &self.places, self.decoder.layout().entries(), exec, flat);
    }

    fn open_gguf(path: &Path) -> Result<ModelFile, Error> {
        let file = gguf::File::open(path)?;
        let config =
            gguf_config::read(&file).map_err(|reason| Error::Config { path: path.to_owned(), reason })?;
        let decoder = Decoder::new(config);
        let container = Container::gguf(file)?;
        let config = decoder.config();
        let places = Places::resolve(
            &container,
            decoder.layout().entries(),
            &|entry| architecture::place(config, entry).into_iter().collect(),
            &|name| architecture::is_spare(config, name),
        )?;
        Ok(ModelFile { path: path.to_owned(), decoder, container, places })
    }

    fn open_folder(folder: &Path) -> Result<ModelFile, Error> {
        let decoder = Decoder::new(Config::load(folder)?);
        let container = Container::safetensors(&container::safetensors_files(folder)?)?;
        let config = decoder.config();
        let places = Places::resolve(
            &container,
            decoder.layout().entries(),
            &|entry| names::hugging_face(config, entry),
            &|name| names::is_spare_in_hugging_face(config, name),
        )?;
        Ok(ModelFile { path: folder.to_owned(), decoder, container, places })
    }
}

/// Reads every entry into its place in a flat buffer.
pub(crate) fn read_all(
    container: &Container,
    places: &Places,
    entries: &[Entry],
    exec: Exec<'_>,
    flat: &mut [f32],
) {
    for (index, entry) in entries.iter().enumerate() {
        places.stored(container, index).read_f32(exec, entry.weight.of_mut(flat));
    }
}
