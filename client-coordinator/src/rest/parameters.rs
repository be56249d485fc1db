//! The parameters of a query.

use std::ops::RangeInclusive;

use axum::http::Uri;
use bytes::Bytes;
use tierkv_openapi::{
    integer::version,
    octets,
    requests::{self, Consistency},
    timeout, ttl,
};
use tierkv_rpc::proto::v1::ReadOptions;
use tierkv_types::{Error, limits::DEFAULT_TIMEOUT};
use tokio::time::Instant;

use super::path::decoded;

/// The decoded parameters of one query. Each is taken out by its reader; those left at the end are
/// refused.
pub(super) struct Parameters(Vec<(String, Vec<u8>)>);

impl Parameters {
    /// The parameters of an address; `+` is a plus sign, as in the path.
    ///
    /// # Errors
    /// `InvalidArgument` if one is given twice or can't be decoded.
    pub(super) fn of(uri: &Uri) -> Result<Self, Error> {
        let mut parameters: Vec<(String, Vec<u8>)> = Vec::new();
        let pairs = uri.query().unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = utf8("a parameter's name", decoded(name)?)?;
            if parameters.iter().any(|(seen, _)| *seen == name) {
                return Err(Error::invalid(format!(
                    "the parameter '{}' is given twice; give it once",
                    name.escape_debug()
                )));
            }
            parameters.push((name, decoded(value)?));
        }
        Ok(Self(parameters))
    }

    /// Takes a parameter that is any bytes.
    pub(super) fn bytes(&mut self, name: &str) -> Option<Bytes> {
        let at = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.swap_remove(at).1.into())
    }

    /// Takes a parameter that is text.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not UTF-8.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        let bytes = self.bytes(name);
        bytes.map(|bytes| utf8(name, bytes.into())).transpose()
    }

    /// Takes a parameter that is any bytes, under its name or as base64 under the name with
    /// `_base64`.
    ///
    /// # Errors
    /// `InvalidArgument` if it is given in both ways, or is not base64.
    pub(super) fn octets(&mut self, name: &str) -> Result<Option<Bytes>, Error> {
        let raw = self.bytes(name);
        let base64 = self.text(&format!("{name}_base64"))?;
        match (raw, base64) {
            // Refused as in bodies: both at once, and invalid base64.
            (Some(_), Some(base64)) => octets::optional(name, Some(String::new()), Some(&base64)),
            (None, base64) => octets::optional(name, None, base64.as_deref()),
            (raw, None) => Ok(raw),
        }
    }

    /// Takes a parameter that is a whole number. `limit` is the name of its upper bound, if that
    /// has one.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not a number or out of bounds.
    pub(super) fn number(
        &mut self,
        name: &str,
        bounds: RangeInclusive<u32>,
        limit: Option<&str>,
    ) -> Result<Option<u32>, Error> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number: Option<u32> = digits.then(|| text.parse().ok()).flatten();
        match number.filter(|number| bounds.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::invalid(format!(
                "{name} must be a whole number from {} to {}{}, not '{}'",
                bounds.start(),
                bounds.end(),
                limit.map_or_else(String::new, |limit| format!(" (the limit {limit})")),
                text.escape_debug()
            ))),
        }
    }

    /// Takes a parameter that is true or false; absent means false.
    ///
    /// # Errors
    /// `InvalidArgument` if it is neither.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Error> {
        match self.text(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Error::invalid(format!("{name} must be true or false"))),
        }
    }

    /// Takes the parameters of a read.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn read_options(&mut self) -> Result<ReadOptions, Error> {
        let consistency = self.text("consistency")?;
        let consistency = (consistency.as_deref().map(Consistency::named)).transpose()?;
        let min_version = match self.text("min_version")? {
            Some(text) => version("min_version", &text)?,
            None => 0,
        };
        let max_staleness_ms = self.number("max_staleness_ms", 0..=u32::MAX, None)?;
        requests::read_options(consistency, min_version, max_staleness_ms, false)
    }

    /// Takes the time to live in milliseconds; 0 means forever.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn ttl_ms(&mut self) -> Result<u64, Error> {
        let live = self
            .text("ttl")?
            .map(|text| ttl::parse(&text))
            .transpose()?;
        // The maximum fits: `ttl::parse` checks the limit.
        Ok(live.map_or(0, |live| {
            u64::try_from(live.as_millis()).unwrap_or(u64::MAX)
        }))
    }

    /// Takes the timeout; returns the operation's deadline.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn deadline(&mut self) -> Result<Instant, Error> {
        let timeout = (self.text("timeout")?)
            .map(|text| timeout::parse(&text))
            .transpose()?;
        Ok(Instant::now() + timeout.unwrap_or(DEFAULT_TIMEOUT))
    }

    /// Checks that no parameter is left.
    ///
    /// # Errors
    /// `InvalidArgument` for a parameter that nobody took.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.0.first() {
            Some((name, _)) => Err(Error::invalid(format!(
                "the parameter '{}' is not known here; leave it out",
                name.escape_debug()
            ))),
            None => Ok(()),
        }
    }
}

fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{name} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tierkv_rpc::proto::v1;

    use super::*;

    fn of(query: &str) -> Result<Parameters, Error> {
        Parameters::of(&format!("/v1/kv/n/k?{query}").parse().unwrap())
    }

    fn taken<T>(
        query: &str,
        take: impl Fn(&mut Parameters) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut parameters = of(query)?;
        let taken = take(&mut parameters)?;
        parameters.finish()?;
        Ok(taken)
    }

    #[test]
    fn options_that_would_be_ignored_are_refused() {
        let options = |query| taken(query, Parameters::read_options);
        let session = v1::Consistency::Session as i32;
        assert_eq!(options("min_version=7").unwrap().consistency, session);
        let none_stale = options("max_staleness_ms=0").unwrap();
        assert_eq!(none_stale.max_staleness_ms, Some(0));
        for bad in [
            "consistency=newest",
            "consistency=",
            "consistency=cached&consistency=latest",
            "min_version=x",
            "min_version=+7",
            "max_staleness_ms=-1",
            "max_staleness_ms=4294967296",
            "fresh=1",
            "consistency=cached&min_version=7",
            "consistency=latest&max_staleness_ms=7",
            "%",
        ] {
            assert!(options(bad).is_err(), "{bad}");
        }
        let live = |query| taken(query, Parameters::ttl_ms);
        assert_eq!(live(""), Ok(0));
        assert_eq!(live("ttl=60s"), Ok(60_000));
        for bad in [
            "ttl=60",
            "ttl=",
            "ttl",
            "ttl=1s&ttl=2s",
            "consistency=latest",
        ] {
            assert!(live(bad).is_err(), "{bad}");
        }
        let flag = |query| taken(query, |parameters| parameters.flag("explain"));
        assert_eq!(flag("explain=true"), Ok(true));
        assert_eq!(flag("explain=false"), Ok(false));
        assert!(flag("explain=1").is_err());
    }

    #[test]
    fn a_number_out_of_bounds_is_refused_with_its_bounds() {
        let limit = |query| {
            taken(query, |parameters| {
                parameters.number("limit", 1..=1_000, Some("max_items"))
            })
        };
        assert_eq!(limit(""), Ok(None));
        assert_eq!(limit("limit=1000"), Ok(Some(1_000)));
        for bad in [
            "limit=",
            "limit=0",
            "limit=1001",
            "limit=+1",
            "limit=4294967296",
        ] {
            let words = limit(bad).unwrap_err().message;
            let bounds = "limit must be a whole number from 1 to 1000 (the limit max_items)";
            assert!(words.starts_with(bounds), "{bad}: {words}");
        }
    }

    #[test]
    fn bytes_come_raw_or_as_base64() {
        let prefix = |query| taken(query, |parameters| parameters.octets("prefix"));
        let bytes = |bytes: &'static [u8]| Ok(Some(Bytes::from_static(bytes)));
        assert_eq!(prefix(""), Ok(None));
        assert_eq!(prefix("prefix="), bytes(b""));
        assert_eq!(prefix("prefix=a+b%FF"), bytes(b"a+b\xff"));
        assert_eq!(prefix("prefix_base64=+/8="), bytes(b"\xfb\xff"));
        assert_eq!(prefix("pre%66ix=a"), bytes(b"a"));
        assert!(prefix("prefix=a&prefix_base64=YQ==").is_err());
        assert!(prefix("prefix_base64=%FF").is_err());
    }

    #[test]
    fn a_timeout_sets_the_deadline() {
        let before = Instant::now();
        let deadline = taken("timeout=2s", Parameters::deadline).unwrap();
        assert!(deadline - before >= Duration::from_secs(2));
        assert!(deadline <= Instant::now() + Duration::from_secs(2));
        assert!(taken("timeout=0s", Parameters::deadline).is_err());
    }
}
