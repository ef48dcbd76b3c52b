//! The element types of GGUF files: their numbers, names and block sizes. Must not know how a block is computed with.

/// How the elements of a matrix row are stored. Names and numbers are those of ggml's `ggml_type`
/// (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    IQ1_M,
    TQ1_0,
    TQ2_0,
    MXFP4,
}

impl BlockType {
    /// Type, number in the file, elements of a block, bytes of a block.
    const TABLE: [(BlockType, u32, &'static str, usize, usize); 25] = [
        (BlockType::F32, 0, "F32", 1, 4),
        (BlockType::F16, 1, "F16", 1, 2),
        (BlockType::Q4_0, 2, "Q4_0", 32, 18),
        (BlockType::Q4_1, 3, "Q4_1", 32, 20),
        (BlockType::Q5_0, 6, "Q5_0", 32, 22),
        (BlockType::Q5_1, 7, "Q5_1", 32, 24),
        (BlockType::Q8_0, 8, "Q8_0", 32, 34),
        (BlockType::Q2_K, 10, "Q2_K", 256, 84),
        (BlockType::Q3_K, 11, "Q3_K", 256, 110),
        (BlockType::Q4_K, 12, "Q4_K", 256, 144),
        (BlockType::Q5_K, 13, "Q5_K", 256, 176),
        (BlockType::Q6_K, 14, "Q6_K", 256, 210),
        (BlockType::IQ2_XXS, 16, "IQ2_XXS", 256, 66),
        (BlockType::IQ2_XS, 17, "IQ2_XS", 256, 74),
        (BlockType::IQ3_XXS, 18, "IQ3_XXS", 256, 98),
        (BlockType::IQ1_S, 19, "IQ1_S", 256, 50),
        (BlockType::IQ4_NL, 20, "IQ4_NL", 32, 18),
        (BlockType::IQ3_S, 21, "IQ3_S", 256, 110),
        (BlockType::IQ2_S, 22, "IQ2_S", 256, 82),
        (BlockType::IQ4_XS, 23, "IQ4_XS", 256, 136),
        (BlockType::IQ1_M, 29, "IQ1_M", 256, 56),
        (BlockType::BF16, 30, "BF16", 1, 2),
        (BlockType::TQ1_0, 34, "TQ1_0", 256, 54),
        (BlockType::TQ2_0, 35, "TQ2_0", 256, 66),
        (BlockType::MXFP4, 39, "MXFP4", 32, 17),
    ];

    fn entry(self) -> &'static (BlockType, u32, &'static str, usize, usize) {
        Self::TABLE.iter().find(|entry| entry.0 == self).expect("every type is in the table")
    }

    /// All types, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = BlockType> {
        Self::TABLE.iter().map(|entry| entry.0)
    }

    /// The type of a number in a file; `None` where it is unknown.
    pub fn from_number(number: u32) -> Option<BlockType> {
        Self::TABLE.iter().find(|entry| entry.1 == number).map(|entry| entry.0)
    }

    /// The type of a name, in either case: `q8_0`, `Q4_K`.
    pub fn from_name(name: &str) -> Option<BlockType> {
        Self::TABLE.iter().find(|entry| entry.2.eq_ignore_ascii_case(name)).map(|entry| entry.0)
    }

    /// The number in a file.
    pub fn number(self) -> u32 {
        self.entry().1
    }

    /// The name, as ggml writes it.
    pub fn name(self) -> &'static str {
        self.entry().2
    }

    /// Elements of a block; a row is a whole number of blocks.
    pub fn block_len(self) -> usize {
        self.entry().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.entry().4
    }

    /// Bytes of a row of `columns` elements; `None` where that is no whole number of blocks.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let blocks = columns.is_multiple_of(self.block_len()).then(|| columns / self.block_len())?;
        blocks.checked_mul(self.block_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_round_trip() {
        for kind in BlockType::all() {
            assert_eq!(BlockType::from_number(kind.number()), Some(kind));
            assert_eq!(BlockType::from_name(&kind.name().to_lowercase()), Some(kind));
        }
        assert_eq!(BlockType::all().count(), BlockType::TABLE.len());
        assert_eq!(BlockType::from_number(4), None);
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(BlockType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(BlockType::Q4_K.row_bytes(288), None);
        assert_eq!(BlockType::F16.row_bytes(3), Some(6));
    }
}
