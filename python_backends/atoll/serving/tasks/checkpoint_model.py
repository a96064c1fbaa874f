"""Models that load a checkpoint: settings, tokenizer, control requests, and a limit of requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from atoll import progress
from atoll.serving.admission import Admission
from atoll.serving.model_ops import Changes, ModelOps
from atoll.serving.requests.report import Origin
from atoll.serving.tasks.served_model import R, ServedModel, TaskEngine
from atoll.serving.triton.auto_complete import complete
from atoll.serving.triton.instance import checkpoint_folder, instance_settings
from atoll.serving.triton.request_metrics import RequestMetrics
from atoll.serving.triton.response_sender import ResponseSender
from atoll.text.chat import ChatTemplate
from atoll.text.tokenizer import Tokenizer
from atoll.weights.router_files import read_routes, route_folders


class CheckpointModel(ServedModel[R]):
    """Base of generators and encoders."""

    is_batched: ClassVar[bool]

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Called by Triton before ``initialize``, in a separate process."""
        return complete(config, cls.task)

    def open_checkpoint(self, args: dict[str, str]) -> Path:
        """First in ``initialize``: reads settings and tokenizer; returns the folder."""
        progress.introduce(args["model_name"], args["model_version"])
        self.open(args)
        self.settings = instance_settings(args, self.task)
        self.folder = folder = checkpoint_folder(args, self.settings)
        routes = read_routes(folder)
        if routes is None:
            self.tokenizer = Tokenizer.load(folder)
        else:
            with route_folders(folder, routes) as folders:
                self.tokenizer = Tokenizer.load(folders[routes.main])
        return folder

    def serve(
        self, args: dict[str, str], engine: TaskEngine, metrics: RequestMetrics[R],
        facts: Mapping[str, Any], *, num_preparing: int, chat: ChatTemplate | None = None,
        forget: Callable[[str], None] | None = None,
        compile_regex: Callable[[str], object] | None = None,
        changes: Changes = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Last in ``initialize``: see ``ServedModel.begin`` and ``ModelOps``."""
        self.admission = Admission(self.settings.max_concurrent_requests)
        self.begin(engine, metrics, num_preparing=num_preparing)
        self.ops = ModelOps(
            self.settings, self.tokenizer,
            {"task": self.task, "model_version": args["model_version"], **facts},
            self.preparation, self.refuse,
            chat=chat, is_batched=self.is_batched, cancel=self.cancel, forget=forget,
            compile_regex=compile_regex,
            changes=changes,
        )  # fmt: skip

    def origin(self, parameters: Mapping[str, Any], request_id: str) -> Origin:
        """See ``ServedModel``; without ``fair_scheduling``, all clients are one."""
        found = super().origin(parameters, request_id)
        return found if self.settings.fair_scheduling else found._replace(client="")

    def answer_control(self, parameters: Mapping[str, Any], sender: ResponseSender) -> bool:
        """See ``ServedModel``."""
        return self.ops.answer(parameters, sender)

    def admit(self, request: R) -> None:
        """See ``ServedModel``."""
        self.admission.enter(request.num_answers, request.origin.client)
        super().admit(request)

    def closing(self, request: R) -> None:
        """See ``Answering``: a client that has its answer may send a request at once."""
        self.admission.leave(request.num_answers, request.origin.client)
