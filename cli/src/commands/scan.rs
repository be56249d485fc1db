//! `tierkv scan`.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;
use serde_json::json;
use tierkv::{Item, ScanOptions, Selection};
use tierkv_openapi::{
    answers,
    octets::{split, token, token_bytes},
};

use super::{
    freshness::FreshnessArguments,
    key::{KeyForm, expiry, millis},
    prefix::PrefixArguments,
};
use crate::{
    connection::Connection,
    number,
    outcome::Outcome,
    output::{self, Output, Table, readable, readable_value},
};

/// Rows of a table that are aligned together; later rows keep the column widths, or widen them.
const ROWS_TOGETHER: usize = 100;

/// Options of `tierkv scan`.
#[derive(Args)]
pub(crate) struct ScanArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: KeyForm,
    #[command(flatten)]
    freshness: FreshnessArguments,
    #[command(flatten)]
    prefix: PrefixArguments,
    /// Start at this key (inclusive).
    #[arg(long, conflicts_with_all = ["prefix", "prefix_option"])]
    start: Option<OsString>,
    /// End before this key (exclusive).
    #[arg(long, conflicts_with_all = ["prefix", "prefix_option"])]
    end: Option<OsString>,
    /// The most keys to list. If there are more, the last line of JSON, or otherwise standard
    /// error, has the token for --page-token.
    #[arg(long, value_parser = number::small_limit)]
    limit: Option<u32>,
    /// Continue where an earlier scan of the same keys ended.
    #[arg(long)]
    page_token: Option<String>,
    /// Print only the keys.
    #[arg(long)]
    keys_only: bool,
    /// How to print the keys.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Prints keys and values in the order of the keys.
pub(crate) async fn run(arguments: ScanArguments) -> Outcome {
    let form = &arguments.form;
    let end = |key: Option<OsString>| key.map_or(Ok(Vec::new()), |key| form.read(key));
    let selection = match (arguments.start, arguments.end) {
        (None, None) => form.prefix(arguments.prefix.given())?,
        (start, last) => Selection::range(end(start)?, end(last)?),
    };
    let page_token = (arguments.page_token.as_deref())
        .map(|text| token_bytes("the page token", "the output of an earlier scan", text));
    let options = ScanOptions {
        limit: arguments.limit,
        page_token: page_token.transpose()?,
        read: arguments.freshness.options()?,
    };
    let client = arguments.connection.open().await?;
    let mut printer = Printer::new(arguments.output, arguments.keys_only);
    if options.limit.is_some() {
        let page = client.scan_page(selection, options).await?;
        for item in page.items {
            printer.print(&item)?;
        }
        printer.finish()?;
        if let Some(next) = page.next_page_token {
            let next_page_token = token(&next);
            match arguments.output {
                Output::Json => output::json(&json!({"next_page_token": next_page_token}))?,
                Output::Table | Output::Raw => output::note(format_args!(
                    "there are more: --page-token {next_page_token}"
                )),
            }
        }
    } else {
        let mut items = client.scan_with(selection, options);
        while let Some(item) = items.next().await {
            printer.print(&item?)?;
        }
        printer.finish()?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Printer {
    output: Output,
    keys_only: bool,
    table: Table,
}

impl Printer {
    fn new(output: Output, keys_only: bool) -> Self {
        Self {
            output,
            keys_only,
            table: match keys_only {
                true => Table::new(["KEY"]),
                false => Table::new(["KEY", "VALUE", "VERSION", "EXPIRES"]),
            },
        }
    }

    fn print(&mut self, item: &Item) -> std::io::Result<()> {
        match self.output {
            Output::Table if self.keys_only => self.table.push([readable(&item.key)]),
            Output::Table => self.table.push([
                readable(&item.key),
                readable_value(&item.value),
                item.version.to_string(),
                expiry(item.expires_at),
            ]),
            Output::Raw if self.keys_only => return output::line(&item.key),
            Output::Raw => {
                let parts: [&[u8]; 4] = [&item.key, b"\t", &item.value, b"\n"];
                return output::print(parts.concat());
            }
            Output::Json => return output::json(&as_json(item, self.keys_only)),
        }
        match self.table.len() < ROWS_TOGETHER {
            true => Ok(()),
            false => output::print(self.table.take()),
        }
    }

    fn finish(&mut self) -> std::io::Result<()> {
        match self.output {
            Output::Table => output::print(self.table.take()),
            Output::Json | Output::Raw => Ok(()),
        }
    }
}

/// An item in REST's form.
fn as_json(item: &Item, keys_only: bool) -> answers::Item {
    let (key, key_base64) = split(&item.key);
    let (value, value_base64) = match keys_only {
        true => (None, None),
        false => split(&item.value),
    };
    answers::Item {
        key,
        key_base64,
        value,
        value_base64,
        version: item.version.to_string(),
        expires_at: millis(item.expires_at),
    }
}
