//! What stands in for a daemon in tests: it listens, and says to each call what the test has it say, or nothing at all.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use memgov_client::Memgov;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What is answered to a call without `org.memgov.` in front, with its parameters. `None`: nothing, for ever.
type Answers = dyn Fn(&str, &Value) -> Option<Value> + Send + Sync;

/// It.
pub struct Fake {
    dir: TempDir,
}

impl Fake {
    /// Listens for as long as the test runs.
    pub fn start(answers: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let answers: Arc<Answers> = Arc::new(answers);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let answers = Arc::clone(&answers);
                // Ends with its client.
                thread::spawn(move || serve(client, &*answers));
            }
        });
        Self { dir }
    }

    /// Who asks it.
    pub fn memgov(&self, patience: Duration) -> Memgov {
        Memgov::at(self.dir.path().join("socket")).patience(patience)
    }
}

fn serve(mut client: UnixStream, answers: &Answers) -> io::Result<()> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            let call: Value = serde_json::from_slice(&bytes[..end])?;
            bytes.drain(..=end);
            let method = call["method"].as_str().unwrap_or_default().trim_start_matches("org.memgov.");
            if let Some(answer) = answers(method, &call["parameters"]) {
                let mut reply = serde_json::to_vec(&json!({ "parameters": answer }))?;
                reply.push(0);
                client.write_all(&reply)?;
            }
        }
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            got => bytes.extend_from_slice(&buffer[..got]),
        }
    }
}
