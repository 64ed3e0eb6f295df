//! The gRPC codec of the stream: prost's, with a small first buffer, because most messages are acknowledgements and
//! single endpoints, and the buffers live as long as the stream.

use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::wire::{DeltaRequest, DeltaResponse};

type Inner = ProstCodec<DeltaResponse, DeltaRequest>;

/// Bytes of a new buffer.
const FIRST_BUFFER: usize = 1024;
/// Bytes after which messages that wait are handed to HTTP/2.
const YIELD: usize = 32 * 1024;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeltaCodec;

impl Codec for DeltaCodec {
    type Encode = DeltaResponse;
    type Decode = DeltaRequest;
    type Encoder = ProstEncoder<DeltaResponse>;
    type Decoder = ProstDecoder<DeltaRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        Inner::raw_encoder(BufferSettings::new(FIRST_BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        Inner::raw_decoder(BufferSettings::new(FIRST_BUFFER, YIELD))
    }
}
