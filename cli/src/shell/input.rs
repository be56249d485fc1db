//! What was read at a prompt or as an answer.

/// The result of reading a line.
pub(super) enum Input {
    /// Without its end.
    Line(Vec<u8>),
    /// The user discarded the line (Ctrl-C), or the question was abandoned.
    Nothing,
    End,
    /// Reading failed.
    Failed(String),
}
