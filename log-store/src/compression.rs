//! The five codecs of record batches: none, gzip, snappy, LZ4 (frame format), zstd.
//!
//! What comes in is a stranger's: nothing is allocated from a size that the compressed bytes claim, output grows only as
//! it is produced, and inflation stops at [`inflate_limit`]. One [`Inflater`] is kept and used again, so that a batch
//! costs no new buffer.
//!
//! | id | codec | framing written | framing read |
//! | --- | --- | --- | --- |
//! | 1 | gzip | one member | any number of members |
//! | 2 | snappy | snappy-java's: 16-byte header, then chunks of int32 length and a raw block | that, or one raw block |
//! | 3 | LZ4 | one frame, independent blocks | the same: Java's reader knows neither linked blocks nor a second frame |
//! | 4 | zstd | one frame | any number of frames |

use std::{cell::RefCell, fmt, io::Read, io::Write, str::FromStr};

/// A codec, by its id in the attributes of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Records as they are.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy, as snappy-java frames it.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

impl Codec {
    /// All codecs, by id.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec in a batch's attributes.
    ///
    /// # Errors
    /// [`CompressionError::UnknownCodec`] for ids 5 to 7.
    pub fn from_attributes(attributes: i16) -> Result<Self, CompressionError> {
        let id = (attributes & 7) as u8;
        Self::ALL.get(usize::from(id)).copied().ok_or(CompressionError::UnknownCodec { id })
    }

    /// Kafka's name, as in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodecName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| UnknownCodecName { name: name.to_owned() })
    }
}

/// No codec has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression '{name}': none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCodecName {
    /// What was given.
    pub name: String,
}

/// Why compressed records could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The attributes name a codec that does not exist.
    #[error("compression codec {id} does not exist")]
    UnknownCodec {
        /// The id found.
        id: u8,
    },
    /// The bytes are not what the codec wrote.
    #[error("the {codec} data is damaged")]
    Corrupt {
        /// The codec.
        codec: Codec,
    },
    /// They inflate to more than is allowed for their size.
    #[error("the {codec} data inflates to more than {limit} bytes")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// The bound, bytes.
        limit: usize,
    },
}

/// How far a batch of `compressed` bytes may inflate: 16 times, or 64 MiB where that is more.
pub fn inflate_limit(compressed: usize) -> usize {
    compressed.saturating_mul(16).max(64 << 20)
}

/// Buffers and contexts for inflating, used again and again.
pub struct Inflater {
    buffer: Vec<u8>,
    snappy: snap::raw::Decoder,
    zstd: Option<zstd::zstd_safe::DCtx<'static>>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { buffer: Vec::new(), snappy: snap::raw::Decoder::new(), zstd: None }
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inflater").field("capacity", &self.buffer.capacity()).finish_non_exhaustive()
    }
}

thread_local! {
    static INFLATER: RefCell<Inflater> = RefCell::default();
}

/// Runs `work` with this thread's inflater. It must not be called from inside `work`.
pub fn with_inflater<R>(work: impl FnOnce(&mut Inflater) -> R) -> R {
    INFLATER.with_borrow_mut(|inflater| {
        let result = work(inflater);
        inflater.release();
        result
    })
}

impl Inflater {
    /// What is kept between batches; anything larger is given back.
    const KEEP_BYTES: usize = 2 << 20;

    /// Inflates `input`; [`Codec::None`] gives it back as it is.
    ///
    /// # Errors
    /// [`CompressionError::Corrupt`]; [`CompressionError::TooLarge`] above `limit`.
    pub fn inflate<'a>(
        &'a mut self,
        codec: Codec,
        input: &'a [u8],
        limit: usize,
    ) -> Result<&'a [u8], CompressionError> {
        self.buffer.clear();
        match codec {
            Codec::None => return Ok(input),
            Codec::Gzip => inflate_gzip(input, limit, &mut self.buffer),
            Codec::Snappy => inflate_snappy(&mut self.snappy, input, limit, &mut self.buffer),
            Codec::Lz4 => inflate_lz4(input, limit, &mut self.buffer),
            Codec::Zstd => inflate_zstd(
                self.zstd.get_or_insert_with(zstd::zstd_safe::DCtx::create),
                input,
                limit,
                &mut self.buffer,
            ),
        }?;
        Ok(&self.buffer)
    }

    /// Gives back what one unusually large batch made it hold.
    pub fn release(&mut self) {
        if self.buffer.capacity() > Self::KEEP_BYTES {
            self.buffer = Vec::new();
        }
    }
}

/// Reads to the end, but not past `limit`.
fn read_bounded(
    reader: &mut impl Read,
    codec: Codec,
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    reader.take(limit as u64 + 1).read_to_end(into).map_err(|_| CompressionError::Corrupt { codec })?;
    if into.len() > limit {
        return Err(CompressionError::TooLarge { codec, limit });
    }
    Ok(())
}

fn inflate_gzip(input: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), CompressionError> {
    read_bounded(&mut flate2::bufread::MultiGzDecoder::new(input), Codec::Gzip, limit, into)
}

fn inflate_lz4(mut input: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), CompressionError> {
    const CORRUPT: CompressionError = CompressionError::Corrupt { codec: Codec::Lz4 };
    const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
    // Flags: version 01 in the top bits, then "blocks are independent", which Java's reader insists on.
    if !(input.starts_with(&MAGIC) && input.get(4).is_some_and(|flags| flags >> 5 == 0b011)) {
        return Err(CORRUPT);
    }
    read_bounded(&mut lz4_flex::frame::FrameDecoder::new(&mut input), Codec::Lz4, limit, into)?;
    if input.is_empty() { Ok(()) } else { Err(CORRUPT) }
}

const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_CHUNK: usize = 32 << 10;

fn inflate_snappy(
    decoder: &mut snap::raw::Decoder,
    input: &[u8],
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    const CORRUPT: CompressionError = CompressionError::Corrupt { codec: Codec::Snappy };
    if !input.starts_with(&XERIAL_HEADER[..8]) {
        return inflate_snappy_block(decoder, input, limit, into);
    }
    let mut rest = input.get(XERIAL_HEADER.len()..).ok_or(CORRUPT)?;
    while !rest.is_empty() {
        // A stream that was appended to begins with its header again.
        if rest.starts_with(&XERIAL_HEADER[..8]) {
            rest = rest.get(XERIAL_HEADER.len()..).ok_or(CORRUPT)?;
            continue;
        }
        let (length, behind) = rest.split_first_chunk().ok_or(CORRUPT)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| CORRUPT)?;
        let (block, behind) = behind.split_at_checked(length).ok_or(CORRUPT)?;
        inflate_snappy_block(decoder, block, limit, into)?;
        rest = behind;
    }
    Ok(())
}

fn inflate_snappy_block(
    decoder: &mut snap::raw::Decoder,
    block: &[u8],
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    const CORRUPT: CompressionError = CompressionError::Corrupt { codec: Codec::Snappy };
    // The densest element makes 64 bytes from 3: a block that claims more than 22 for 1 lies, and is not believed.
    const DENSEST: usize = 22;
    let claimed = snap::raw::decompress_len(block).map_err(|_| CORRUPT)?;
    if claimed > block.len().saturating_mul(DENSEST) {
        return Err(CORRUPT);
    }
    let start = into.len();
    if claimed > limit - start {
        return Err(CompressionError::TooLarge { codec: Codec::Snappy, limit });
    }
    into.resize(start + claimed, 0);
    let made = decoder.decompress(block, &mut into[start..]).map_err(|_| CORRUPT)?;
    if made == claimed { Ok(()) } else { Err(CORRUPT) }
}

fn inflate_zstd(
    context: &mut zstd::zstd_safe::DCtx<'static>,
    input: &[u8],
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    /// `ZSTD_error_dstSize_tooSmall`, as the library returns error codes.
    const OUTPUT_FULL: usize = 70usize.wrapping_neg();
    // In one shot, so that the output itself is the window and a header that asks for a window of 128 MiB costs nothing.
    // The price is to begin again with a larger output where the guess was too small.
    let mut room = input.len().saturating_mul(6).max(into.capacity()).max(16 << 10);
    loop {
        room = room.min(limit);
        into.clear();
        into.reserve_exact(room);
        match context.decompress(into, input) {
            Ok(_) if into.len() <= limit => return Ok(()),
            Ok(_) => return Err(CompressionError::TooLarge { codec: Codec::Zstd, limit }),
            Err(OUTPUT_FULL) if room < limit => room = room.saturating_mul(4),
            Err(OUTPUT_FULL) => return Err(CompressionError::TooLarge { codec: Codec::Zstd, limit }),
            Err(_) => return Err(CompressionError::Corrupt { codec: Codec::Zstd }),
        }
    }
}

/// Compresses `input`. `level` is the codec's own (gzip 0 to 9, zstd 1 to 22 and below 0); where it is `None`, or for the
/// codecs without levels, Kafka's default.
pub fn deflate(codec: Codec, level: Option<i32>, input: &[u8]) -> Vec<u8> {
    // Writing to a Vec does not fail, and the codecs refuse no input.
    deflate_checked(codec, level, input).expect("compressing into memory")
}

fn deflate_checked(codec: Codec, level: Option<i32>, input: &[u8]) -> std::io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => {
            let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(6).min(9);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(input)?;
            encoder.finish()
        }
        Codec::Snappy => {
            let mut encoder = snap::raw::Encoder::new();
            let mut into = XERIAL_HEADER.to_vec();
            for chunk in input.chunks(XERIAL_CHUNK) {
                let block = encoder.compress_vec(chunk)?;
                into.extend_from_slice(&(block.len() as u32).to_be_bytes());
                into.extend_from_slice(&block);
            }
            Ok(into)
        }
        Codec::Lz4 => {
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(input)?;
            Ok(encoder.finish()?)
        }
        Codec::Zstd => zstd::bulk::compress(input, level.unwrap_or(3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPRESSING: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn inflated(codec: Codec, input: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        Inflater::default().inflate(codec, input, limit).map(<[u8]>::to_vec)
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..).flat_map(|number: u64| number.to_string().into_bytes()).take(bytes).collect()
    }

    #[test]
    fn every_codec_round_trips_also_with_one_inflater_for_all() {
        let mut inflater = Inflater::default();
        for size in [0, 1, 100, 32 << 10, (32 << 10) + 1, 300_000] {
            let input = text(size);
            for codec in Codec::ALL {
                for level in [None, Some(1), Some(9)] {
                    let compressed = deflate(codec, level, &input);
                    assert_eq!(
                        inflater.inflate(codec, &compressed, 1 << 20),
                        Ok(&input[..]),
                        "{codec} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn raw_snappy_is_read_as_well_as_framed() {
        let input = text(5000);
        let raw = snap::raw::Encoder::new().compress_vec(&input).unwrap();
        assert_eq!(inflated(Codec::Snappy, &raw, 1 << 20), Ok(input.clone()));
        let mut twice = deflate(Codec::Snappy, None, &input[..2500]);
        twice.extend(deflate(Codec::Snappy, None, &input[2500..]));
        assert_eq!(inflated(Codec::Snappy, &twice, 1 << 20), Ok(input));
    }

    /// Proves: I03 (each codec stops at the limit, whatever the input would become).
    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = vec![0; 8 << 20];
        for codec in COMPRESSING {
            let bomb = deflate(codec, None, &zeros);
            assert!(bomb.len() < zeros.len() / 15, "{codec}");
            for limit in [1, 1000, 1 << 20, zeros.len() - 1] {
                assert_eq!(inflated(codec, &bomb, limit), Err(CompressionError::TooLarge { codec, limit }));
            }
            assert_eq!(inflated(codec, &bomb, zeros.len()).map(|bytes| bytes.len()), Ok(zeros.len()));
        }
    }

    /// Proves: I03 (a size that the header claims is never allocated).
    #[test]
    fn claimed_sizes_are_not_believed() {
        // Raw snappy that claims 4 GiB - 1, and a framed one whose chunk does.
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        let mut framed = XERIAL_HEADER.to_vec();
        framed.extend([0, 0, 0, 6]);
        framed.extend(claim);
        let mut long_chunk = XERIAL_HEADER.to_vec();
        long_chunk.extend([0x7f, 0xff, 0xff, 0xff, 0, 0]);
        let mut negative_chunk = XERIAL_HEADER.to_vec();
        negative_chunk.extend([0xff, 0xff, 0xff, 0xff, 0, 0]);
        for input in [&claim[..], &framed, &long_chunk, &negative_chunk, &XERIAL_HEADER[..9]] {
            let mut inflater = Inflater::default();
            let error = inflater.inflate(Codec::Snappy, input, usize::MAX).map(<[u8]>::len).unwrap_err();
            assert_eq!(error, CompressionError::Corrupt { codec: Codec::Snappy });
            assert_eq!(inflater.buffer.capacity(), 0);
        }
        // A zstd frame that claims 2^62 bytes of content (and hence such a window), then one raw block of 1 byte.
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0x40]);
        frame.extend([0b0000_1001, 0, 0, 7]);
        let mut inflater = Inflater::default();
        assert!(inflater.inflate(Codec::Zstd, &frame, 64 << 20).is_err());
        assert!(inflater.buffer.capacity() <= 1 << 20);
    }

    #[test]
    fn lz4_that_java_cannot_read_is_refused() {
        let corrupt = Err(CompressionError::Corrupt { codec: Codec::Lz4 });
        let frame = deflate(Codec::Lz4, None, &text(1000));
        let twice = [&frame[..], &frame].concat();
        assert_eq!(inflated(Codec::Lz4, &twice, 1 << 20), corrupt);
        let linked = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(linked, Vec::new());
        encoder.write_all(&text(1000)).unwrap();
        assert_eq!(inflated(Codec::Lz4, &encoder.finish().unwrap(), 1 << 20), corrupt);
    }

    #[test]
    fn damage_is_an_error_or_other_bytes_but_never_a_panic() {
        let input = text(3000);
        for codec in COMPRESSING {
            let whole = deflate(codec, None, &input);
            let mut inflater = Inflater::default();
            for position in 0..whole.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut damaged = whole.clone();
                    damaged[position] ^= flip;
                    if let Ok(bytes) = inflater.inflate(codec, &damaged, 1 << 20) {
                        assert!(bytes.len() <= 1 << 20);
                    }
                }
                if let Ok(bytes) = inflater.inflate(codec, &whole[..position], 1 << 20) {
                    assert!(bytes.len() <= input.len(), "{codec} cut to {position}");
                }
            }
            assert!(inflater.inflate(codec, b"not compressed at all", 1 << 20).is_err(), "{codec}");
        }
    }

    #[test]
    fn one_huge_batch_does_not_pin_its_buffer() {
        let bomb = deflate(Codec::Zstd, None, &vec![0; 16 << 20]);
        with_inflater(|inflater| assert!(inflater.inflate(Codec::Zstd, &bomb, 64 << 20).is_ok()));
        with_inflater(|inflater| assert!(inflater.buffer.capacity() <= Inflater::KEEP_BYTES));
    }
}
