//! The list of kernels.

/// A kernel of the crate, by its name.
///
/// [`KernelKind::ALL`] is the one list of them: the self-test, the tables of tests, the compiler
/// lab, `certify` and the benchmark go by it, and fail where they have nothing to say of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KernelKind {
    /// [`attention`](crate::attention): many query rows over their keys.
    Attention,
    /// [`attention_backward`](crate::attention_backward): its gradients.
    AttentionBackward,
    /// [`decode`](crate::decode): few query rows over a cache.
    Decode,
    /// [`kv_append`](crate::kv_append): new rows into a cache.
    KvAppend,
    /// [`kv_move`](crate::kv_move): rows moved within a cache.
    KvMove,
    /// [`linear_attention`](crate::linear_attention): RoFormer's.
    LinearAttention,
    /// [`linear_attention_backward`](crate::linear_attention_backward): its gradients.
    LinearAttentionBackward,
    /// [`merge`](crate::merge): attention over parts of the keys, merged.
    Merge,
    /// [`rope`](crate::rope): rotation of queries and keys.
    Rope,
    /// [`scores`](crate::scores): raw scores, and statistics of rows.
    Scores,
}

impl KernelKind {
    /// Every kernel, in the order of their names.
    pub const ALL: &[Self] = &[
        Self::Attention,
        Self::AttentionBackward,
        Self::Decode,
        Self::KvAppend,
        Self::KvMove,
        Self::LinearAttention,
        Self::LinearAttentionBackward,
        Self::Merge,
        Self::Rope,
        Self::Scores,
    ];

    /// Its name: that of its module, and of its files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::AttentionBackward => "attention_backward",
            Self::Decode => "decode",
            Self::KvAppend => "kv_append",
            Self::KvMove => "kv_move",
            Self::LinearAttention => "linear_attention",
            Self::LinearAttentionBackward => "linear_attention_backward",
            Self::Merge => "merge",
            Self::Rope => "rope",
            Self::Scores => "scores",
        }
    }

    /// The kernel of this name.
    ///
    /// ```
    /// use phasor::KernelKind;
    ///
    /// assert_eq!(KernelKind::named("kv_move"), Some(KernelKind::KvMove));
    /// assert_eq!(KernelKind::named("gemm"), None);
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kernel| kernel.name() == name)
    }

    /// Those kernels that a table has no row for, and those that it has more than one for.
    ///
    /// ```
    /// use phasor::KernelKind;
    ///
    /// let others = KernelKind::ALL.iter().filter(|&&kernel| kernel != KernelKind::Rope);
    /// assert_eq!(KernelKind::not_once(others.copied()), [KernelKind::Rope]);
    /// ```
    pub fn not_once(rows: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let rows: Vec<Self> = rows.into_iter().collect();
        let once = |kernel: &&Self| rows.iter().filter(|row| row == kernel).count() == 1;
        Self::ALL.iter().filter(|kernel| !once(kernel)).copied().collect()
    }
}

impl core::fmt::Display for KernelKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant that `ALL` lacks would be in no table: the compiler asks for its name, and the
    /// module of that name is what this looks for.
    #[test]
    fn every_kernel_is_in_the_list() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels");
        let files = std::fs::read_dir(root).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        });
        let mut files: Vec<_> = files.filter(|name| name != "mod").collect();
        files.sort();
        let names: Vec<_> = KernelKind::ALL.iter().map(|kernel| kernel.name()).collect();
        assert_eq!(names, files);
    }
}
