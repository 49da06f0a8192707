//! Any method of the interface by its name (`org.memgov.varlink`), for programs that ask on behalf of others or show what there is.

use serde_json::Value;

use crate::wire::Connection;
use crate::{Error, Memgov};

impl Memgov {
    /// Calls a method, named without its interface, and gives the parameters of its reply.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn call(&self, method: &str, parameters: Value) -> Result<Value, Error> {
        self.connect()?.call(method, parameters)
    }

    /// Calls a method that goes on to reply (`more`).
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn stream(&self, method: &str, parameters: Value) -> Result<Stream, Error> {
        let connection = self.connect()?;
        connection.send(method, parameters, true)?;
        connection.patient()?;
        Ok(Stream { connection })
    }
}

/// Replies as they come. It waits for each without end, and ends with the daemon: after an error there is nothing more to come.
#[derive(Debug)]
pub struct Stream {
    connection: Connection,
}

impl Iterator for Stream {
    type Item = Result<Value, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.connection.wait())
    }
}
