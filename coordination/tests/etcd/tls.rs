//! TLS, with certificates of clients.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tierkv_coordination::{
    ConfigStore, CoordinationError, EtcdCoordination, EtcdOptions, GroupMembership, Watch,
    etcd::MIN_LEASE_TTL,
};
use tierkv_harness::{
    DataFolder, Etcd,
    etcd::{Setup, Tls},
};

use crate::servers::{alone, located, value, within, won};

/// An authority for tests.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// The PEM texts of a certificate and its key.
    fn issue(&self) -> (String, String) {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

fn written(folder: &DataFolder, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("a file");
    path
}

async fn secured(folder: &DataFolder, authority: &Authority) -> Etcd {
    let (certificate, key) = authority.issue();
    let setup = Setup {
        tls: Some(Tls {
            certificate: written(folder, "server.pem", &certificate),
            key: written(folder, "server.key", &key),
            client_ca: Some(written(folder, "ca.pem", &authority.pem())),
        }),
        ..Setup::default()
    };
    alone(setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_are_checked() {
    let folder = DataFolder::new("certificates").expect("a folder");
    let authority = Authority::new();
    let etcd = secured(&folder, &authority).await;
    let address = etcd.addresses().remove(0);
    let at = located(&format!("etcds://{address}/one"));
    let (certificate, private_key) = authority.issue();
    let trusted = EtcdOptions {
        ca_certificates: Some(authority.pem()),
        certificate: Some(certificate),
        private_key: Some(private_key),
        lease_ttl: MIN_LEASE_TTL,
        ..EtcdOptions::default()
    };
    let store = EtcdCoordination::connect(&at, &trusted)
        .await
        .expect("a store");
    let mut watched = store.watch("key").await.expect("a watch");
    won(store.put_if_absent("key", value("1")).await);
    let newest = watched.wait_for(Option::is_some);
    within("the watch", newest).await.expect("the store lives");
    let member = store.join("group", "one", Bytes::new()).await;
    member
        .expect("a membership")
        .leave()
        .await
        .expect("a farewell");

    let of_another = EtcdOptions {
        ca_certificates: Some(Authority::new().pem()),
        ..trusted.clone()
    };
    let without_own = EtcdOptions {
        certificate: None,
        private_key: None,
        ..trusted.clone()
    };
    for untrusted in [of_another, without_own] {
        let store = EtcdCoordination::connect(&at, &untrusted)
            .await
            .expect("a store");
        let refused = store.put_if_absent("other", value("1")).await;
        assert!(
            matches!(refused, Err(CoordinationError::Unavailable(_))),
            "{refused:?}"
        );
    }
    let plain = located(&format!("etcd://{address}/one"));
    let plain = EtcdCoordination::connect(&plain, &EtcdOptions::default()).await;
    let refused = plain.expect("a store").get("key").await;
    assert!(
        matches!(refused, Err(CoordinationError::Unavailable(_))),
        "{refused:?}"
    );
    assert_eq!(store.get("other").await, Ok(None));
}

#[tokio::test]
async fn certificates_that_are_none_are_refused_at_once() {
    let at = located("etcds://localhost/one");
    let broken = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n";
    let options = EtcdOptions {
        ca_certificates: Some(broken.to_owned()),
        ..EtcdOptions::default()
    };
    let refused = EtcdCoordination::connect(&at, &options).await;
    assert!(
        matches!(refused, Err(CoordinationError::InvalidArgument(_))),
        "{refused:?}"
    );
}
