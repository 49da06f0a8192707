//! Varlink's framing by hand: one JSON object, then a NUL. Bounded on the way in; knows nothing of methods or sockets.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request has at most so many bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// A call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// `interface.Method`.
    pub method: String,
    /// An object; `null` and absence mean an empty one.
    #[serde(default)]
    pub parameters: Value,
    /// The caller wants a stream of replies.
    #[serde(default)]
    pub more: bool,
    /// The caller wants no reply.
    #[serde(default)]
    pub oneway: bool,
    /// The caller wants to speak another protocol afterwards: refused here.
    #[serde(default)]
    pub upgrade: bool,
}

/// A reply, or an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The result, or what belongs to the error.
    #[serde(default)]
    pub parameters: Value,
    /// Name of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// More replies to the same call follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<bool>,
}

/// Why no more can be read from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// No NUL in [`MAX_REQUEST`] bytes.
    #[error("a request has at most {MAX_REQUEST} bytes")]
    TooLong,
    /// Not JSON, or not a call.
    #[error("not a varlink call: one JSON object with `method`, then a NUL")]
    NotACall,
}

/// Bytes as they came, cut into calls.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// No NUL before this: what was searched is not searched again, or a dripping client would cost quadratic time.
    searched: usize,
}

impl Inbox {
    /// How much may be pushed now.
    pub fn room(&self) -> usize {
        MAX_REQUEST.saturating_sub(self.bytes.len())
    }
    /// Adds bytes; what is beyond [`Inbox::room`] makes the next [`Inbox::call`] fail.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
    /// Whether a call has begun that has not ended.
    pub fn is_half(&self) -> bool {
        !self.bytes.is_empty()
    }
    /// Takes the next whole call.
    ///
    /// # Errors
    /// After an error nothing more can be made of this peer.
    pub fn call(&mut self) -> Result<Option<Call>, FramingError> {
        let Some(at) = self.bytes[self.searched..].iter().position(|&b| b == 0) else {
            self.searched = self.bytes.len();
            return if self.bytes.len() >= MAX_REQUEST { Err(FramingError::TooLong) } else { Ok(None) };
        };
        let end = self.searched + at;
        let call = serde_json::from_slice(&self.bytes[..end]).map_err(|_| FramingError::NotACall);
        self.bytes.drain(..=end);
        self.searched = 0;
        call.map(Some)
    }
}

/// The bytes of a message, NUL included.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    // Only maps with keys that are no strings can fail, and no message has one.
    let mut bytes = serde_json::to_vec(message).unwrap_or_default();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn calls_are_cut_at_nul_however_they_arrive() {
        let bytes =
            b"{\"method\":\"a.B\"}\0{\"method\":\"a.C\",\"parameters\":{\"x\":1},\"more\":true}\0{\"meth";
        for step in 1..bytes.len() {
            let (mut inbox, mut methods) = (Inbox::default(), Vec::new());
            for chunk in bytes.chunks(step) {
                inbox.push(chunk);
                while let Some(call) = inbox.call().unwrap() {
                    methods.push((call.method, call.more));
                }
            }
            assert_eq!(methods, [("a.B".into(), false), ("a.C".into(), true)]);
            assert!(inbox.is_half());
        }
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for bad in ["\0", "x\0", "{}\0", "[]\0", "{\"method\":1}\0", "{\"method\":\"a\"}x\0", "\u{fffd}\0"] {
            let mut inbox = Inbox::default();
            inbox.push(bad.as_bytes());
            assert_eq!(inbox.call(), Err(FramingError::NotACall), "{bad:?}");
        }
        let mut deep = Inbox::default();
        deep.push("[".repeat(60_000).as_bytes());
        deep.push(b"\0");
        assert_eq!(deep.call(), Err(FramingError::NotACall));
        let mut endless = Inbox::default();
        endless.push(&vec![b' '; MAX_REQUEST]);
        assert_eq!((endless.room(), endless.call()), (0, Err(FramingError::TooLong)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_never_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut inbox = Inbox::default();
            for chunk in chunks {
                inbox.push(&chunk);
                while let Ok(Some(_)) = inbox.call() {}
            }
        }

        #[test]
        fn what_is_encoded_is_read_back(method in ".{0,20}", key in ".{0,9}", text in ".{0,20}", more: bool) {
            let call = Call {
                method, parameters: serde_json::json!({ key: text }), more, oneway: false, upgrade: false,
            };
            let mut inbox = Inbox::default();
            inbox.push(&encode(&call));
            prop_assert_eq!(inbox.call(), Ok(Some(call)));
            prop_assert!(!inbox.is_half());
        }
    }
}
