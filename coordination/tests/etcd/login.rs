//! Users and passwords; tokens that expire, are forgotten, or are older than the users.

use std::{fs, sync::Arc};

use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, Permission, PermissionType};
use tierkv_coordination::{
    ConfigStore, CoordinationError, EtcdCoordination, EtcdOptions, GroupMembership, Watch,
    etcd::MIN_LEASE_TTL,
};
use tierkv_harness::{DataFolder, Etcd, etcd::Setup};

use crate::servers::{alone, eventually, location, text, value, within, won};

const PASSWORD: &str = "a secret of root";

fn root() -> ConnectOptions {
    ConnectOptions::new().with_user("root", PASSWORD)
}

/// A server with the user `root`, and the user `shop`, who may do everything under `shop/`.
async fn with_users(arguments: Vec<String>) -> Etcd {
    let setup = Setup {
        arguments,
        ..Setup::default()
    };
    let etcd = alone(setup).await;
    let mut client = Client::connect(etcd.addresses(), None)
        .await
        .expect("a client");
    client
        .user_add("root", PASSWORD, None)
        .await
        .expect("a user");
    client
        .user_grant_role("root", "root")
        .await
        .expect("a role");
    client.role_add("shop").await.expect("a role");
    let permission = Permission::new(PermissionType::Readwrite, "shop/").with_prefix();
    let granted = client.role_grant_permission("shop", permission).await;
    granted.expect("a permission");
    client
        .user_add("shop", PASSWORD, None)
        .await
        .expect("a user");
    client
        .user_grant_role("shop", "shop")
        .await
        .expect("a role");
    client.auth_enable().await.expect("authentication");
    etcd
}

async fn connect(etcd: &Etcd, name: &str, user: Option<(&str, &str)>) -> Arc<EtcdCoordination> {
    let (user, password) = user.unzip();
    let options = EtcdOptions {
        user: user.map(str::to_owned),
        password: password.map(str::to_owned),
        lease_ttl: MIN_LEASE_TTL,
        ..EtcdOptions::default()
    };
    EtcdCoordination::connect(&location(&etcd.addresses(), name), &options)
        .await
        .expect("a store")
}

/// The arguments of a server whose tokens are signed, and live for `ttl`.
fn signed_tokens(folder: &DataFolder, ttl: &str) -> Vec<String> {
    let key = folder.path().join("token.key");
    fs::write(&key, "the key of the tokens' signatures").expect("a file");
    let key = key.display();
    vec![format!(
        "--auth-token=jwt,sign-method=HS256,priv-key={key},ttl={ttl}"
    )]
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, CoordinationError>) -> String {
    match result {
        Err(CoordinationError::Unavailable(why)) => {
            assert!(!why.contains(PASSWORD), "{why}");
            why
        }
        other => panic!("not unavailable: {other:?}"),
    }
}

/// All four traits with a user, whose token is forgotten by a restart of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_token_is_replaced() {
    let mut etcd = with_users(Vec::new()).await;
    let store = connect(&etcd, "shop", Some(("shop", PASSWORD))).await;
    let first = won(store.put_if_absent("key", value("1")).await);
    let mut watched = store.watch("key").await.expect("a watch");
    let member = store.join("group", "one", Bytes::new()).await;
    member
        .expect("a membership")
        .leave()
        .await
        .expect("a farewell");

    etcd.restart().await.expect("a restart");
    let second = eventually("a change", || async {
        match store.compare_and_swap("key", first, value("2")).await {
            Ok(swap) => Some(swap.won().expect("nobody else changes it")),
            Err(CoordinationError::Unavailable(_)) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    let newest = watched.wait_for(|it| it.as_ref().is_some_and(|it| it.revision == second));
    within("the watch", newest).await.expect("the store lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_rights_is_told_so() {
    let etcd = with_users(Vec::new()).await;
    let wrong = connect(&etcd, "shop", Some(("shop", "a wrong one"))).await;
    let why = unavailable(wrong.get("key").await);
    assert!(why.contains("authentication failed"), "{why}");
    let nobody = connect(&etcd, "shop", None).await;
    let why = unavailable(nobody.put_if_absent("key", Bytes::new()).await);
    assert!(why.contains("configure the user"), "{why}");
    let elsewhere = connect(&etcd, "other", Some(("shop", PASSWORD))).await;
    let why = unavailable(elsewhere.put_if_absent("key", Bytes::new()).await);
    assert!(why.contains("permission denied"), "{why}");
}

/// A user is configured, but etcd does not ask for one: not yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authentication_may_be_switched_on_later() {
    let etcd = alone(Setup::default()).await;
    let store = connect(&etcd, "shop", Some(("root", PASSWORD))).await;
    let first = won(store.put_if_absent("key", value("1")).await);
    let mut client = Client::connect(etcd.addresses(), None)
        .await
        .expect("a client");
    client
        .user_add("root", PASSWORD, None)
        .await
        .expect("a user");
    client
        .user_grant_role("root", "root")
        .await
        .expect("a role");
    client.auth_enable().await.expect("authentication");
    won(store.compare_and_swap("key", first, value("2")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_is_replaced() {
    let folder = DataFolder::new("tokens").expect("a folder");
    let etcd = with_users(signed_tokens(&folder, "2s")).await;
    let store = connect(&etcd, "shop", Some(("shop", PASSWORD))).await;
    let first = won(store.put_if_absent("key", value("1")).await);
    let mut watched = store.watch("key").await.expect("a watch");
    // A client whose token is younger, and never replaced.
    let client = Client::connect(etcd.addresses(), Some(root())).await;
    let client = client.expect("a client");
    eventually("the end of a younger token", || async {
        let read = client.kv_client().get("shop/any", None).await;
        read.is_err().then_some(())
    })
    .await;
    let second = won(store.compare_and_swap("key", first, value("2")).await);
    let newest = watched.wait_for(|it| it.as_ref().is_some_and(|it| it.revision == second));
    within("the watch", newest).await.expect("the store lives");
}

/// Any change of the users makes the signed tokens of all of them too old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_older_than_the_users_is_replaced() {
    let folder = DataFolder::new("tokens").expect("a folder");
    let etcd = with_users(signed_tokens(&folder, "10m")).await;
    let store = connect(&etcd, "shop", Some(("shop", PASSWORD))).await;
    let first = won(store.put_if_absent("key", value("1")).await);
    let witness = Client::connect(etcd.addresses(), Some(root())).await;
    let witness = witness.expect("a client");
    let mut client = Client::connect(etcd.addresses(), Some(root()))
        .await
        .expect("a client");
    client
        .user_add("late", PASSWORD, None)
        .await
        .expect("a user");
    let read = witness.kv_client().get("shop/any", None).await;
    let refused = read.expect_err("an old token").to_string();
    assert!(
        refused.contains("revision of auth store is old"),
        "{refused}"
    );

    won(store.compare_and_swap("key", first, value("2")).await);
    let seen = store.get("key").await.expect("a read");
    assert_eq!(text(seen.as_ref()), "2");
}
