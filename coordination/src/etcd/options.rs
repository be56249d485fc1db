//! What a connection to etcd needs besides its location.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::{error::CoordinationError, location::EtcdLocation};

/// Default time to live of a lease.
pub const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(5);
/// Shortest time to live of a lease: etcd grants no shorter one.
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(2);
/// Longest time to live of a lease.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(60);
/// Timeout for a TCP connection, and for a TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection with open streams is pinged this often. etcd closes connections that are pinged
/// more often than every 5 s (`--grpc-keepalive-min-time`), or while they have no stream.
const PING_PAUSE: Duration = Duration::from_secs(10);
/// A ping that is not answered for this long closes its connection.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// The first byte of every certificate and key.
const DER_SEQUENCE: u8 = 0x30;

/// User, TLS and leases of a connection to etcd. Certificates and keys are the contents of PEM
/// files. Its `Debug` form contains no secret.
#[derive(Clone)]
pub struct EtcdOptions {
    /// The user, if etcd requires one; then `password` is required, too.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// The certificates of the authorities that etcd's certificate is checked against; without
    /// them, those of the system. For `etcds://` only.
    pub ca_certificates: Option<String>,
    /// The certificate of this client, if etcd requires one; then `private_key` is required, too.
    pub certificate: Option<String>,
    /// The private key of `certificate`.
    pub private_key: Option<String>,
    /// The time to live of leases, in whole seconds from [`MIN_LEASE_TTL`] to [`MAX_LEASE_TTL`].
    /// A process that dies keeps its names for about this long, and one that can't reach etcd
    /// loses them after four fifths of it.
    pub lease_ttl: Duration,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            ca_certificates: None,
            certificate: None,
            private_key: None,
            lease_ttl: DEFAULT_LEASE_TTL,
        }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "hidden");
        f.debug_struct("EtcdOptions")
            .field("user", &self.user)
            .field("password", &hidden(&self.password))
            .field("ca_certificates", &self.ca_certificates.is_some())
            .field("certificate", &self.certificate.is_some())
            .field("private_key", &hidden(&self.private_key))
            .field("lease_ttl", &self.lease_ttl)
            .finish()
    }
}

impl EtcdOptions {
    /// User and password.
    ///
    /// # Errors
    /// `InvalidArgument` if one is missing or empty.
    pub(super) fn credentials(&self) -> Result<Option<(String, String)>, CoordinationError> {
        match (&self.user, &self.password) {
            (None, None) => Ok(None),
            (Some(user), Some(password)) if !user.is_empty() && !password.is_empty() => {
                Ok(Some((user.clone(), password.clone())))
            }
            _ => Err(invalid(
                "only one of user and password is there; configure both, or none",
            )),
        }
    }

    /// The time to live of leases.
    ///
    /// # Errors
    /// `InvalidArgument` if it is out of bounds.
    pub(super) fn checked_lease_ttl(&self) -> Result<Duration, CoordinationError> {
        let ttl = self.lease_ttl;
        if ttl.subsec_nanos() != 0 || ttl < MIN_LEASE_TTL || ttl > MAX_LEASE_TTL {
            return Err(CoordinationError::InvalidArgument(format!(
                "the lease TTL of etcd is {ttl:?}; choose whole seconds from \
                 {MIN_LEASE_TTL:?} to {MAX_LEASE_TTL:?}"
            )));
        }
        Ok(ttl)
    }

    /// The options of each connection.
    ///
    /// # Errors
    /// `InvalidArgument` if the TLS options are not usable.
    pub(super) fn connections(
        &self,
        location: &EtcdLocation,
    ) -> Result<ConnectOptions, CoordinationError> {
        let options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(CONNECT_LIMIT)
            .with_tcp_keepalive(PING_PAUSE)
            .with_keep_alive(PING_PAUSE, PING_LIMIT)
            .with_keep_alive_while_idle(false);
        if location.is_tls() {
            return Ok(options.with_tls(self.tls()?));
        }
        let is_for_tls = [&self.ca_certificates, &self.certificate, &self.private_key]
            .iter()
            .any(|option| option.is_some());
        if is_for_tls {
            return Err(invalid(
                "certificates are configured, but the location begins with etcd://, which does \
                 not use TLS; write etcds://",
            ));
        }
        Ok(options)
    }

    fn tls(&self) -> Result<TlsOptions, CoordinationError> {
        let mut tls = TlsOptions::new().timeout(CONNECT_LIMIT);
        tls = match &self.ca_certificates {
            None => tls.with_native_roots(),
            Some(pem) => {
                check_pem(pem, "CERTIFICATE", "the CA file")?;
                tls.ca_certificate(Certificate::from_pem(pem))
            }
        };
        match (&self.certificate, &self.private_key) {
            (None, None) => Ok(tls),
            (Some(certificate), Some(key)) => {
                check_pem(certificate, "CERTIFICATE", "the certificate file")?;
                check_pem(key, "PRIVATE KEY", "the key file")?;
                Ok(tls.identity(Identity::from_pem(certificate, key)))
            }
            _ => Err(invalid(
                "only one of certificate and private key is there; configure both, or none",
            )),
        }
    }
}

/// Checks that a file has blocks of this kind, and that they are whole. The TLS library skips what
/// it can't read: with a damaged file it would trust nobody, without saying why.
fn check_pem(pem: &str, label: &str, file: &str) -> Result<(), CoordinationError> {
    let mut lines = pem.lines().map(str::trim);
    let mut is_found = false;
    while let Some(line) = lines.next() {
        let Some(found) = line.strip_prefix("-----BEGIN ") else {
            continue;
        };
        let text: String = lines
            .by_ref()
            .take_while(|line| !line.starts_with("-----END "))
            .collect();
        // The label of a key may begin with its kind.
        if !found.ends_with(&format!("{label}-----")) {
            continue;
        }
        let decoded = STANDARD.decode(text).ok();
        if decoded.is_none_or(|decoded| decoded.first() != Some(&DER_SEQUENCE)) {
            return Err(invalid(&format!(
                "{file} has a {label} that is damaged or encrypted; give an unencrypted PEM file"
            )));
        }
        is_found = true;
    }
    if is_found {
        return Ok(());
    }
    Err(invalid(&format!(
        "{file} has no line -----BEGIN {label}-----; give a PEM file"
    )))
}

fn invalid(why: &str) -> CoordinationError {
    CoordinationError::InvalidArgument(format!("the options of etcd are not usable: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::Location;

    fn location(text: &str) -> EtcdLocation {
        match text.parse() {
            Ok(Location::Etcd(etcd)) => etcd,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_debug_form_has_no_secret() {
        let options = EtcdOptions {
            user: Some("root".to_owned()),
            password: Some("secret-1".to_owned()),
            private_key: Some("secret-2".to_owned()),
            ..EtcdOptions::default()
        };
        let printed = format!("{options:?}");
        assert!(printed.contains("root"), "{printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }

    #[test]
    fn what_is_not_usable_is_refused_with_what_to_do() {
        let plain = location("etcd://a/b");
        let tls = location("etcds://a/b");
        let words = |error: CoordinationError| error.to_string();
        let half = EtcdOptions {
            user: Some("root".to_owned()),
            ..EtcdOptions::default()
        };
        assert!(words(half.credentials().unwrap_err()).contains("configure both"));
        for ttl in [
            Duration::from_secs(1),
            Duration::from_millis(2500),
            Duration::from_secs(61),
        ] {
            let options = EtcdOptions {
                lease_ttl: ttl,
                ..EtcdOptions::default()
            };
            assert!(words(options.checked_lease_ttl().unwrap_err()).contains("whole seconds"));
        }
        let no_pem = EtcdOptions {
            ca_certificates: Some("nonsense".to_owned()),
            ..EtcdOptions::default()
        };
        let why = words(no_pem.connections(&tls).unwrap_err());
        assert!(
            why.contains("the CA file has no line -----BEGIN CERTIFICATE-----"),
            "{why}"
        );
        assert!(words(no_pem.connections(&plain).unwrap_err()).contains("write etcds://"));
        let half = EtcdOptions {
            certificate: Some("-----BEGIN CERTIFICATE-----".to_owned()),
            ..EtcdOptions::default()
        };
        assert!(words(half.connections(&tls).unwrap_err()).contains("configure both"));
        assert!(EtcdOptions::default().connections(&tls).is_ok());
    }

    #[test]
    fn damaged_files_are_noticed() {
        let block = |label: &str, text: &str| {
            format!("a comment\n-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let whole = block("CERTIFICATE", "MAA=");
        let key = block("EC PRIVATE KEY", "MAA=");
        assert_eq!(check_pem(&whole, "CERTIFICATE", "it"), Ok(()));
        assert_eq!(check_pem(&key, "PRIVATE KEY", "it"), Ok(()));
        assert_eq!(
            check_pem(&format!("{key}{whole}"), "CERTIFICATE", "it"),
            Ok(())
        );
        for damaged in ["nonsense", "", "AAAA", "Proc-Type: 4,ENCRYPTED\nMAA="] {
            let damaged = format!("{whole}{}", block("CERTIFICATE", damaged));
            let why = check_pem(&damaged, "CERTIFICATE", "it").unwrap_err();
            assert!(why.to_string().contains("damaged or encrypted"), "{why}");
        }
        for none in [key.as_str(), "", "CERTIFICATE"] {
            let why = check_pem(none, "CERTIFICATE", "it").unwrap_err();
            assert!(why.to_string().contains("has no line"), "{why}");
        }
    }
}
