//! The state that the lines of a shell share: one connection, and default options.
//!
//! Inside a shell, a command gets it from [`current`].

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tierkv::{Client, Code};
use tokio::{
    sync::{mpsc, oneshot},
    task_local,
};

task_local! {
    static KEPT: Arc<Kept>;
}

/// The connection of a shell, and the defaults of its lines.
pub(crate) struct Kept {
    addresses: Vec<String>,
    timeout: Duration,
    namespace: Mutex<String>,
    client: Mutex<Option<Client>>,
    /// Where questions to the user go; `None` for a script.
    questions: Mutex<Option<mpsc::UnboundedSender<Question>>>,
    /// The number of the running line of a script; 0 on a terminal.
    line: AtomicU64,
}

/// A question of the running command to the user.
pub(crate) struct Question {
    pub(crate) words: String,
    /// Dropped if the user gives no answer.
    pub(crate) answer: oneshot::Sender<String>,
}

/// The shared state for the running command; `None` outside a shell.
pub(crate) fn current() -> Option<Arc<Kept>> {
    KEPT.try_with(Arc::clone).ok()
}

/// The place of the running command, to begin its messages with: its line in a script, or nothing.
pub(crate) fn place() -> String {
    match current().map(|kept| kept.line.load(Ordering::Relaxed)) {
        None | Some(0) => String::new(),
        Some(number) => format!("line {number}: "),
    }
}

/// Runs a command inside a shell.
pub(crate) async fn within<T>(kept: Arc<Kept>, command: impl Future<Output = T>) -> T {
    KEPT.scope(kept, command).await
}

impl Kept {
    pub(crate) const fn new(addresses: Vec<String>, timeout: Duration, namespace: String) -> Self {
        Self {
            addresses,
            timeout,
            namespace: Mutex::new(namespace),
            client: Mutex::new(None),
            questions: Mutex::new(None),
            line: AtomicU64::new(0),
        }
    }

    /// From now on, commands may ask the user; returns their questions.
    pub(crate) fn take_questions(&self) -> mpsc::UnboundedReceiver<Question> {
        let (sender, questions) = mpsc::unbounded_channel();
        *locked(&self.questions) = Some(sender);
        questions
    }

    /// Asks the user; `None` if there is no user or no answer.
    pub(crate) async fn ask(&self, words: String) -> Option<String> {
        let questions = locked(&self.questions).clone()?;
        let (answer, answered) = oneshot::channel();
        questions.send(Question { words, answer }).ok()?;
        answered.await.ok()
    }

    /// Whether there is a user to ask.
    pub(crate) fn has_user(&self) -> bool {
        locked(&self.questions).is_some()
    }

    /// The addresses that the shell connects to.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The default timeout of an operation.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The default namespace of lines.
    pub(crate) fn namespace(&self) -> String {
        locked(&self.namespace).clone()
    }

    /// Changes the namespace of the following lines.
    pub(crate) fn use_namespace(&self, namespace: &str) {
        namespace.clone_into(&mut locked(&self.namespace));
    }

    /// Sets the number of the running line of a script, counted from 1.
    pub(crate) fn begin_line(&self, number: u64) {
        self.line.store(number, Ordering::Relaxed);
    }

    /// The connected client, if there is one.
    pub(crate) fn client(&self) -> Option<Client> {
        locked(&self.client).clone()
    }

    /// Keeps a client for the following lines.
    pub(crate) fn keep(&self, client: Client) {
        *locked(&self.client) = Some(client);
    }

    /// Drops the client after an error that may mean a lost connection. The next line connects
    /// again, and fails at once if it can't.
    pub(crate) fn heed(&self, error: &(dyn std::error::Error + 'static)) {
        let code = error
            .downcast_ref::<tierkv::Error>()
            .map(tierkv::Error::code);
        if let Some(Code::Unavailable | Code::OutcomeUnknown | Code::DeadlineExceeded) = code {
            *locked(&self.client) = None;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
