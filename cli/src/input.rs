//! Reads files and standard input for commands, with a size limit.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::kept;

/// Standard input of a command. Not available in a shell, whose lines come from there.
///
/// # Errors
/// In a shell: what to do instead.
pub(crate) fn standard() -> Result<io::Stdin, String> {
    match kept::current() {
        None => Ok(io::stdin()),
        Some(_) => Err(
            "a shell reads its lines from standard input, so no command in it can: name a file, \
             or write the value in the line"
                .to_owned(),
        ),
    }
}

/// Reads a whole file, or standard input if none is named, of at most `limit` bytes.
///
/// # Errors
/// If reading fails; `too_long` if there is more; as [`standard`].
pub(crate) fn read(file: Option<&Path>, limit: usize, too_long: &str) -> Result<Vec<u8>, String> {
    let Some(path) = file else {
        let read = whole(standard()?.lock(), limit);
        return settled(read, "standard input", too_long);
    };
    let read = File::open(path).and_then(|file| whole(file, limit));
    settled(read, &path.display().to_string(), too_long)
}

/// Reads to the end, or returns `None` over `limit` bytes, because the input may be endless.
fn whole(from: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

fn settled(
    read: io::Result<Option<Vec<u8>>>,
    name: &str,
    too_long: &str,
) -> Result<Vec<u8>, String> {
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(too_long.to_owned()),
        Err(error) => Err(format!("{name} can't be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_the_limit() {
        assert_eq!(whole(&b"1234"[..], 4).unwrap().unwrap(), b"1234");
        assert_eq!(whole(&b"12345"[..], 4).unwrap(), None);
        assert_eq!(whole(io::repeat(0), 4).unwrap(), None);
    }
}
