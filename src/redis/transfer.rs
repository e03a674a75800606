//! The content of a session that is too large for the answer to a look-up: read in pieces, by the
//! second connection ([`super::bulk`]).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::Inner;
use super::bulk::{LARGE_BYTES, MEMORY_KIB};
use super::keys::Keys;
use super::requests::Requests;
use super::scripts::CallFault;
use crate::session::name::Alias;
use crate::store::{ChangeId, StoreError};

/// How long there may be no progress.
const PIECE_WITHIN: Duration = Duration::from_secs(2);
/// How many pieces in a row may fail.
const MAX_FAULTS: u32 = 3;
/// No content is longer; what is was not written by us.
const CONTENT_MAX_BYTES: u64 = 65 << 20;

/// A piece of a content.
struct Piece {
    bytes: Vec<u8>,
    /// Of the whole content.
    total_bytes: u64,
}

impl Inner {
    /// The sealed content of that save; `None` if it is not the current one any more.
    pub(super) async fn content(
        &self,
        alias: &Alias,
        save: ChangeId,
    ) -> Result<Option<Bytes>, StoreError> {
        let bound = Duration::from_millis(self.settings.outage_budget_ms);
        timeout(bound, self.pieces(alias, save)).await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!(
                "a content did not arrive within {} s",
                bound.as_secs()
            )))
        })
    }

    async fn pieces(&self, alias: &Alias, save: ChangeId) -> Result<Option<Bytes>, StoreError> {
        let primary = self.primary_of(alias.shard());
        let _turn = primary.bulk.transfers.acquire().await.map_err(|error| closed(&error))?;
        let mut content = BytesMut::new();
        let mut memory = None;
        let mut faults = 0;
        loop {
            let piece = match self.piece(alias, save, content.len()).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(None),
                Err(CallFault::NotSent(_) | CallFault::Lost(_)) if faults < MAX_FAULTS => {
                    faults += 1;
                    continue;
                }
                Err(fault) => return Err(fault.into()),
            };
            faults = 0;
            if piece.total_bytes > CONTENT_MAX_BYTES || piece.bytes.is_empty() {
                let total = piece.total_bytes;
                return Err(StoreError::Unreadable(format!("a content of {total} bytes")));
            }
            if memory.is_none() {
                let kib = u32::try_from(piece.total_bytes / 1024 + 1).unwrap_or(u32::MAX);
                let permits = primary.bulk.memory.acquire_many(kib.min(MEMORY_KIB));
                memory = Some(permits.await.map_err(|error| closed(&error))?);
                content.reserve(usize::try_from(piece.total_bytes).unwrap_or_default());
            }
            content.extend_from_slice(&piece.bytes);
            if content.len() as u64 >= piece.total_bytes {
                return Ok(Some(content.freeze()));
            }
        }
    }

    async fn piece(
        &self,
        alias: &Alias,
        save: ChangeId,
        from: usize,
    ) -> Result<Option<Piece>, CallFault> {
        let build = |requests| Requests::piece(&requests, alias, save, from, LARGE_BYTES);
        let slot = Keys::slot(alias.shard());
        let mut answer = self.call_bulk(slot, PIECE_WITHIN, build).await?;
        match answer.status.as_str() {
            "piece" => {
                let total_bytes = answer.number().map_err(CallFault::Unreadable)?;
                let bytes = answer.bytes().map_err(CallFault::Unreadable)?;
                Ok(Some(Piece { bytes, total_bytes }))
            }
            "replaced" => Ok(None),
            _ => Err(CallFault::Unreadable(answer.strange())),
        }
    }
}

/// A semaphore that is never closed says so.
fn closed(error: &tokio::sync::AcquireError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
