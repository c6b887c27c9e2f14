//! Positions in lists, with a type for each list, so that none is taken for a position in another.
//!
//! Memory and limits keep all of these lists far below 2^32 items, which is why 4 bytes are enough.

/// Defines a type of positions in one list.
macro_rules! index_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// Creates it from a position.
            ///
            /// # Panics
            /// When the position is 2^32 or more, which no list within the limits has.
            pub const fn new(index: usize) -> Self {
                assert!(index <= u32::MAX as usize, "a list has more than 2^32 items");
                Self(index as u32)
            }

            /// Returns the position.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
pub(crate) use index_type;

index_type! {
    /// Position of an inode in [`FileSet::inodes`](super::fileset::FileSet::inodes).
    InodeId
}

index_type! {
    /// Position of a source in [`Contents`](super::content::Contents).
    SourceId
}

index_type! {
    /// Position of a layer in its image, the lowest being 0.
    LayerIndex
}

impl LayerIndex {
    /// Creates it from a position that a delta states; `None` if it is 2^32 or more.
    pub(crate) fn checked(index: u64) -> Option<Self> {
        u32::try_from(index).ok().map(Self)
    }

    /// Returns the number of the layer for people, the lowest being 1.
    pub fn number(self) -> usize {
        self.index() + 1
    }
}
