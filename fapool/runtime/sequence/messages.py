"""Rows carried by messages of a process group: gloo on CPUs, NCCL where peers share no memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.runtime.sequence.mail import Mail


class Messages:
    """A `Carrier` by `batch_isend_irecv`, one batch a step; NCCL's kernels share the SMs."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        on_gpu = dist.get_backend(group) == "nccl"
        self._stream = torch.cuda.Stream() if on_gpu else None
        self._mail: Mail | None = None
        self._under_way: dict[int, list[dist.Work]] = {}
        self.received: tuple[Tensor, ...] = ()

    def mark(self) -> torch.cuda.Event | None:
        """See `Carrier.mark`."""
        return torch.cuda.current_stream().record_event() if self._stream else None

    def begin(self, mail: Mail, like: Sequence[Tensor]) -> None:
        """See `Carrier.begin`."""
        assert not self._under_way
        self._mail, self._step = mail, 0
        self.received = tuple(x.new_empty(mail.num_rows, *x.shape[1:]) for x in like)

    def post(
        self, ready: torch.cuda.Event | None, tensors: Sequence[Tensor], targets: Sequence[int]
    ) -> None:
        """See `Carrier.post`."""
        if self._stream is None:
            self._post(tensors, targets)
            return
        # NCCL begins where the current stream is: here, before the attention launched meanwhile.
        self._stream.wait_event(ready)
        with torch.cuda.stream(self._stream):
            self._post(tensors, targets)

    def wait(self, sources: Iterable[int]) -> None:
        """See `Carrier.wait`."""
        for source in sources:
            for work in self._under_way.pop(source):
                work.wait()

    def finish(self) -> None:
        """See `Carrier.finish`."""
        assert self._step == len(self._mail.targets)
        self.wait(list(self._under_way))

    def _post(self, tensors: Sequence[Tensor], targets: Sequence[int]) -> None:
        mail = self._mail
        for target in targets:
            source = mail.sources[self._step]
            assert target == mail.targets[self._step]
            self._step += 1
            own = [x[mail.sent[target]] for x in tensors]
            coming = [x[mail.heard[source]] for x in self.received]
            steps = [(dist.isend, x, target) for x in own] + [
                (dist.irecv, x, source) for x in coming
            ]
            batch = [
                dist.P2POp(call, x, group=self._group, group_peer=peer)
                for call, x, peer in steps
                if x.numel()
            ]
            self._under_way[source] = dist.batch_isend_irecv(batch) if batch else []
