//! `tierkv export`: keys into the JSON lines that `tierkv import` reads.

use std::{
    fs::File,
    io::{BufWriter, Write, stdout},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;
use tierkv::{Client, Item, ScanOptions, Selection};

use super::{
    freshness::FreshnessArguments, import::line::Line, key::KeyForm, prefix::PrefixArguments,
};
use crate::{connection::Connection, outcome::Outcome, output};

/// Options of `tierkv export`.
#[derive(Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    freshness: FreshnessArguments,
    #[command(flatten)]
    prefix: PrefixArguments,
    /// Write the lines to this file instead of standard output.
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Writes a line for each key, with its remaining time to live.
pub(crate) async fn run(arguments: ExportArguments) -> Outcome {
    let prefix = arguments.prefix.given();
    let has_prefix = prefix.is_some();
    let selection = arguments.form.prefix(prefix)?;
    let options = ScanOptions {
        read: arguments.freshness.options()?,
        ..ScanOptions::default()
    };
    let client = arguments.connection.open().await?;
    let count = match &arguments.file {
        None => lines(&client, selection, options, BufWriter::new(stdout())).await?,
        Some(path) => {
            let file = File::create(path)
                .map_err(|error| format!("{} can't be written: {error}", path.display()))?;
            let written = lines(&client, selection, options, BufWriter::new(file)).await;
            written.map_err(|error| format!("{} is not complete: {error}", path.display()))?
        }
    };
    let hint = match (count, has_prefix, &arguments.file) {
        (0, true, None) => "; no key begins with the prefix (--file names a file)",
        _ => "",
    };
    output::note(format_args!("{count} exported{hint}"));
    Ok(ExitCode::SUCCESS)
}

async fn lines(
    client: &Client,
    selection: Selection,
    options: ScanOptions,
    mut to: impl Write,
) -> Result<u64, Box<dyn std::error::Error>> {
    let mut items = client.scan_with(selection, options);
    let mut count = 0;
    while let Some(item) = items.next().await {
        // Expiry is in the platform's time, not this machine's.
        if let Some(line) = line(item?, client.platform_time()) {
            to.write_all(&line.write()?)?;
            count += 1;
        }
    }
    to.flush()?;
    Ok(count)
}

/// The line of a key; `None` if it has expired meanwhile.
fn line(item: Item, now: SystemTime) -> Option<Line> {
    let ttl = match item.expires_at {
        None => None,
        Some(at) => {
            let left = at.duration_since(now).ok()?;
            // A time to live of 0 in a line would mean that the key never expires.
            Some(left)
                .filter(|left| *left >= Duration::from_millis(1))?
                .into()
        }
    };
    Some(Line {
        key: item.key.into(),
        value: item.value.into(),
        ttl,
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_line_has_what_is_left_of_its_time() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let item = |expires_at| Item {
            key: "k".into(),
            value: "v".into(),
            version: 1,
            expires_at,
        };
        assert_eq!(line(item(None), now).map(|line| line.ttl), Some(None));
        let minute = Duration::from_secs(60);
        let later = line(item(Some(now + minute)), now).map(|line| line.ttl);
        assert_eq!(later, Some(Some(minute)));
        for gone in [now, now - minute, now + Duration::from_micros(999)] {
            assert_eq!(line(item(Some(gone)), now), None);
        }
    }
}
