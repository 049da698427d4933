//! The aborted transactions of a segment: Kafka's `.txnindex` file, and what a read_committed fetch needs of it.
//!
//! ```text
//! rows of 34 bytes, in the order of their markers:
//!   version int16 = 0  producerId int64  firstOffset int64  lastOffset int64  lastStableOffset int64
//! ```
//! `lastOffset` is the marker's, `lastStableOffset` the one after the marker was appended. A segment without an aborted
//! transaction has no such file.

/// Bytes of a row.
pub const ROW_BYTES: usize = 34;

const VERSION: i16 = 0;

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer.
    pub producer_id: i64,
    /// Offset of its first record in this partition.
    pub first_offset: i64,
    /// Offset of its marker.
    pub last_offset: i64,
    /// The last stable offset once the marker was appended.
    pub last_stable_offset: i64,
}

/// A `.txnindex` file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionIndexError {
    /// Not a whole number of rows.
    #[error("{bytes} bytes are no whole number of {ROW_BYTES}-byte rows")]
    Size {
        /// Bytes of the file.
        bytes: u64,
    },
    /// Another version.
    #[error("row {row} has version {version}, only 0 is known")]
    Version {
        /// Which row, from 0.
        row: usize,
        /// The version found.
        version: i16,
    },
    /// A row whose offsets contradict each other or the row before.
    #[error("the offsets of row {row} contradict each other or the row before")]
    Order {
        /// Which row, from 0.
        row: usize,
    },
}

impl AbortedTransaction {
    /// The row's bytes.
    pub fn encode(&self) -> [u8; ROW_BYTES] {
        let mut row = [0; ROW_BYTES];
        row[..2].copy_from_slice(&VERSION.to_be_bytes());
        row[2..10].copy_from_slice(&self.producer_id.to_be_bytes());
        row[10..18].copy_from_slice(&self.first_offset.to_be_bytes());
        row[18..26].copy_from_slice(&self.last_offset.to_be_bytes());
        row[26..].copy_from_slice(&self.last_stable_offset.to_be_bytes());
        row
    }

    /// Reads a `.txnindex` file.
    ///
    /// # Errors
    /// It is cut off, or its rows contradict each other. It is a cache: rebuild it from the markers.
    pub fn read_all(bytes: &[u8]) -> Result<Vec<Self>, TransactionIndexError> {
        let rows = bytes.chunks_exact(ROW_BYTES);
        if !rows.remainder().is_empty() {
            return Err(TransactionIndexError::Size { bytes: bytes.len() as u64 });
        }
        let mut transactions: Vec<Self> = Vec::with_capacity(rows.len());
        for (row, bytes) in rows.enumerate() {
            let version = i16::from_be_bytes([bytes[0], bytes[1]]);
            if version != VERSION {
                return Err(TransactionIndexError::Version { row, version });
            }
            let number = |at: usize| {
                let mut piece = [0; 8];
                piece.copy_from_slice(&bytes[at..at + 8]);
                i64::from_be_bytes(piece)
            };
            let transaction = Self {
                producer_id: number(2),
                first_offset: number(10),
                last_offset: number(18),
                last_stable_offset: number(26),
            };
            let follows = transactions.last().is_none_or(|last| last.last_offset < transaction.last_offset);
            if !follows || transaction.first_offset > transaction.last_offset {
                return Err(TransactionIndexError::Order { row });
            }
            transactions.push(transaction);
        }
        Ok(transactions)
    }

    /// Whether a fetch of `from..to` returns some of its records.
    pub fn overlaps(&self, from: i64, to: i64) -> bool {
        self.last_offset >= from && self.first_offset < to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(producer_id: i64, first_offset: i64, last_offset: i64) -> AbortedTransaction {
        AbortedTransaction { producer_id, first_offset, last_offset, last_stable_offset: first_offset + 1 }
    }

    #[test]
    fn rows_round_trip_in_kafkas_layout() {
        let transactions = [transaction(1, 0x0102_0304_0506_0708, i64::MAX - 1), transaction(2, 5, i64::MAX)];
        let bytes: Vec<u8> = transactions.iter().flat_map(AbortedTransaction::encode).collect();
        assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]);
        assert_eq!(AbortedTransaction::read_all(&bytes), Ok(transactions.to_vec()));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let rows = |rows: &[AbortedTransaction]| {
            rows.iter().flat_map(AbortedTransaction::encode).collect::<Vec<_>>()
        };
        let good = rows(&[transaction(1, 0, 9)]);
        assert_eq!(AbortedTransaction::read_all(&good[..33]), Err(TransactionIndexError::Size { bytes: 33 }));
        let mut version = good.clone();
        version[1] = 1;
        assert_eq!(
            AbortedTransaction::read_all(&version),
            Err(TransactionIndexError::Version { row: 0, version: 1 })
        );
        let backwards = rows(&[transaction(1, 0, 9), transaction(2, 3, 8)]);
        assert_eq!(AbortedTransaction::read_all(&backwards), Err(TransactionIndexError::Order { row: 1 }));
        let inverted = rows(&[transaction(1, 10, 9)]);
        assert_eq!(AbortedTransaction::read_all(&inverted), Err(TransactionIndexError::Order { row: 0 }));
    }

    #[test]
    fn a_fetch_meets_the_transactions_that_reach_into_its_range() {
        let transaction = transaction(1, 10, 20);
        for (from, to, expected) in
            [(0, 10, false), (0, 11, true), (20, 30, true), (21, 30, false), (12, 13, true)]
        {
            assert_eq!(transaction.overlaps(from, to), expected, "{from}..{to}");
        }
    }
}
